package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// fillMetadata takes all data space of a pool, then all metadata, with small files
// that lie inside it.
func fillMetadata(t *testing.T, p *pool) (foreign string) {
	t.Helper()
	foreign = filepath.Join(p.dir.Name(), "foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := os.Create(filepath.Join(foreign, "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	for size := int64(64 << 20); size >= 64<<10; {
		st, err := data.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Fallocate(int(data.Fd()), 0, st.Size(), size); errors.Is(err, unix.ENOSPC) {
			size /= 4
		} else if err != nil {
			t.Fatal(err)
		}
	}
	small := make([]byte, 2000)
	for i := 0; ; i++ {
		err := os.WriteFile(filepath.Join(foreign, fmt.Sprint(i)), small, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			t.Logf("%d small files fill the metadata", i)
			return foreign
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAPoolWithoutMetadataStillDeletes(t *testing.T) {
	onEach(t, testAPoolWithoutMetadataStillDeletes)
}

func testAPoolWithoutMetadataStillDeletes(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, minPoolSize, nil, "default")
	ctx := t.Context()
	p := b.poolNamed("default")
	v := b.create(blockSpec("a"))
	s, err := b.CreateSnapshot(ctx, volume.SnapshotSpec{Name: "s", Source: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	foreign := fillMetadata(t, p)
	if err := b.DeleteSnapshot(ctx, s.ID); err != nil {
		t.Errorf("delete a snapshot: %v", err)
	}
	if err := b.DeleteVolume(ctx, v.ID); err != nil {
		t.Errorf("delete a volume: %v", err)
	}
	if err := os.RemoveAll(foreign); err != nil {
		t.Fatal(err)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Error(left)
	}
	b.create(blockSpec("b"))
}
