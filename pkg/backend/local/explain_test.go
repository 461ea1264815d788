package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// fill writes bytes of a kind to the image of a volume and makes them durable.
func (b *bench) fill(id volume.ID, kind byte, from, to volume.Bytes) {
	b.t.Helper()
	p := b.poolNamed("default")
	img, err := os.OpenFile(filepath.Join(p.dir.Name(), objectDir(id), dataDir, imageFile), os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer img.Close()
	content := make([]byte, to-from)
	for i := range content {
		content[i] = kind
	}
	if _, err := img.WriteAt(content, int64(from)); err != nil {
		b.t.Fatal(err)
	}
	if err := img.Sync(); err != nil {
		b.t.Fatal(err)
	}
}

// explained is what status says of the pool, and checks that it agrees with what
// the kernel counts.
func (b *bench) explained() PoolStatus {
	b.t.Helper()
	st, err := Inspect(b.t.Context(), Inspection{StateDir: b.cfg.StateDir, Pool: "default", Extents: true})
	if err != nil || len(st) != 1 || !st[0].Available {
		b.t.Fatalf("%+v, %v", st, err)
	}
	if s, ok := b.poolNamed("default").store.(*btrfsStore); ok {
		r := counters{store: s}
		counted := r.get("data/bytes_used")
		if r.err != nil {
			b.t.Fatal(r.err)
		}
		if sum := st[0].Use.Data + st[0].Use.Trash + st[0].Use.Ballast; sum != counted {
			b.t.Errorf("extents and ballast add up to %d bytes, the kernel counts %d", sum, counted)
		}
	}
	return st[0]
}

// mustShow compares the objects with what they should be, but for what depends on
// how the kernel laid them out.
func (b *bench) mustShow(what string, got PoolStatus, want ...ObjectStatus) {
	b.t.Helper()
	layout := cmpopts.IgnoreFields(ObjectStatus{}, "Extents", "Promised")
	if diff := cmp.Diff(want, got.Objects, layout); diff != "" {
		b.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestStatusExplainsWhereTheSpaceIs(t *testing.T) { onEach(t, testStatusExplainsWhereTheSpaceIs) }

func testStatusExplainsWhereTheSpaceIs(t *testing.T, fsType string) {
	const size, written = 64 * volume.MiB, 16 * volume.MiB
	b := newBenchOn(t, fsType, volume.GiB, nil, "default")
	v, err := b.CreateVolume(t.Context(), volume.Spec{Name: "a", Size: size, Format: volume.Format{Mode: volume.ModeBlock}})
	if err != nil {
		t.Fatal(err)
	}
	vol := ObjectStatus{ID: v.ID, Name: "a", Kind: "volume", Size: size}
	b.mustShow("empty", b.explained(), vol)

	b.fill(v.ID, 1, 0, written)
	vol.Used, vol.Exclusive = written, written
	b.mustShow("written", b.explained(), vol)

	s, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: "s", Source: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	snap := ObjectStatus{ID: s.ID, Name: "s", Kind: "snapshot", Of: v.ID, Size: size, Used: written}
	vol.Exclusive, vol.Snapshots = 0, 1
	st := b.explained()
	b.mustShow("with a snapshot", st, vol, snap)
	if st.Use.Data != written || st.Use.SnapshotsOnly != 0 {
		t.Errorf("with a snapshot: %+v", st.Use)
	}

	b.fill(v.ID, 2, 0, written)
	vol.Exclusive, snap.Exclusive, vol.Pinned = written, written, written
	st = b.explained()
	b.mustShow("overwritten", st, vol, snap)
	if st.Use.Data != 2*written || st.Use.SnapshotsOnly != written {
		t.Errorf("overwritten: %+v", st.Use)
	}

	// A second snapshot shares what the volume has; the first stays alone.
	s2, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: "s2", Source: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	b.fill(v.ID, 3, 0, written/4) // what was there is held by the second alone, with its extent
	st = b.explained()
	if st.Use.SnapshotsOnly != written && st.Use.SnapshotsOnly != written+written/4 {
		t.Errorf("with a second snapshot: %+v", st.Use)
	}
	if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.poolNamed("default").emptyTrash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteSnapshot(t.Context(), s2.ID); err != nil {
		t.Fatal(err)
	}
	if err := b.poolNamed("default").emptyTrash(t.Context()); err != nil {
		t.Fatal(err)
	}

	// Three quarters of the old extents pin the rest of them, unless the kernel
	// cut them just there.
	st = b.explained()
	if len(st.Objects) != 1 {
		t.Fatalf("alone again: %+v", st.Objects)
	}
	alone := st.Objects[0]
	if alone.Used != written || alone.Exclusive != written+alone.Dead || alone.Dead > written/4 || alone.Pinned != 0 || st.Use.Dead != alone.Dead {
		t.Errorf("alone again: %+v, %+v", alone, st.Use)
	}
	t.Logf("%s are dead; %d extents; %+v", alone.Dead, alone.Extents, *st.Use)
	dev, err := b.Attach(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if got := b.explained().Objects[0].Device; got != dev.Path {
		t.Errorf("it is attached as %s, status says %q", dev.Path, got)
	}
}

// What was deleted is in the trash until its space is back.
func TestStatusShowsTheTrash(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	v, err := b.CreateVolume(t.Context(), volume.Spec{Name: "a", Size: 64 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}})
	if err != nil {
		t.Fatal(err)
	}
	b.fill(v.ID, 1, 0, 8*volume.MiB)
	if err := b.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if st := b.explained(); st.Use.Trash != 8*volume.MiB || st.Use.Data != 0 || len(st.Objects) != 0 {
		t.Errorf("%+v, %+v", st.Use, st.Objects)
	}
	if err := b.poolNamed("default").emptyTrash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := b.explained(); st.Use.Trash != 0 {
		t.Errorf("%+v", st.Use)
	}
}
