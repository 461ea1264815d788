package local

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func sampleRecord(name string) record {
	id := volume.NewID(volume.KindVolume, "0123456789abcdef", name)
	return record{
		ID: id, Name: name, Size: volume.GiB, BirthSize: volume.GiB, DataUUID: "x",
		Format:  volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS, SectorSize: 4096},
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	for _, name := range []string{"pvc-1", "\xff not utf-8", "<&\u2028>", "quote\"s"} {
		want := sampleRecord(name)
		data, err := encodeRecord(want, 7)
		if err != nil {
			t.Fatal(err)
		}
		got, generation, err := decodeRecord(data, want.ID)
		if err != nil || generation != 7 {
			t.Fatalf("%q: generation %d, %v", name, generation, err)
		}
		got.RawName = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", name, diff)
		}
	}
}

func TestNoChangedBitOfARecordIsBelieved(t *testing.T) {
	want := sampleRecord("pvc-1")
	data, err := encodeRecord(want, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for bit := range 8 {
			bad := bytes.Clone(data)
			bad[i] ^= 1 << bit
			got, _, err := decodeRecord(bad, want.ID)
			if err != nil {
				continue
			}
			// The envelope's own fields may change without harm; the record may not.
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("byte %d bit %d: %s", i, bit, diff)
			}
		}
	}
	for n := range data {
		if _, _, err := decodeRecord(data[:n], want.ID); err == nil {
			t.Fatalf("the first %d bytes passed", n)
		}
	}
}

func TestARecordOfAnotherObjectIsNotBelieved(t *testing.T) {
	data, err := encodeRecord(sampleRecord("a"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := decodeRecord(data, sampleRecord("b").ID); !errors.Is(err, volume.ErrDataLoss) {
		t.Errorf("it was taken: %v", err)
	}
}

func TestADamagedRecordFallsBackToThePreviousGeneration(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r := sampleRecord("a")
	if _, _, err := readRecord(dir, r.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("nothing was written, and it is read: %v", err)
	}
	if err := writeRecord(root, ".", r); err != nil {
		t.Fatal(err)
	}
	larger := r
	larger.Size = 2 * volume.GiB
	if err := writeRecord(root, ".", larger); err != nil {
		t.Fatal(err)
	}
	if got, previous, err := readRecord(dir, r.ID); err != nil || previous || got.Size != larger.Size {
		t.Fatalf("%v, %v, %v", got.Size, previous, err)
	}
	name := path.Join(".", recordFile(volume.KindVolume))
	if err := root.WriteFile(name, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, previous, err := readRecord(dir, r.ID); err != nil || !previous || got.Size != r.Size {
		t.Fatalf("damaged: %v, %v, %v", got.Size, previous, err)
	}
	if err := writeRecord(root, ".", larger); err != nil {
		t.Fatalf("write over a damaged record: %v", err)
	}
	if got, previous, err := readRecord(dir, r.ID); err != nil || previous || got.Size != larger.Size {
		t.Fatalf("rewritten: %v, %v, %v", got.Size, previous, err)
	}
	if err := root.Remove(name); err != nil { // a crash between the two renames
		t.Fatal(err)
	}
	if got, previous, err := readRecord(dir, r.ID); err != nil || !previous || got.Size != r.Size {
		t.Fatalf("missing: %v, %v, %v", got.Size, previous, err)
	}
	if err := writeRecord(root, ".", larger); err != nil {
		t.Fatalf("write after the fallback: %v", err)
	}
	if err := errors.Join(root.Remove(name), root.WriteFile(name+previousSuffix, []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readRecord(dir, r.ID); !errors.Is(err, volume.ErrDataLoss) {
		t.Fatalf("nothing but a damaged one is left: %v", err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	want := sampleRecord("pvc-1")
	data, err := encodeRecord(want, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("{}"))
	f.Add(bytes.Replace(data, []byte("4096"), []byte("-1"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := decodeRecord(b, want.ID)
		if err == nil && (r.ID != want.ID || r.Size <= 0) {
			t.Fatalf("accepted %+v", r)
		}
	})
}
