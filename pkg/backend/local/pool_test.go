package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func initPool(t *testing.T, state, dir string) error {
	t.Helper()
	b, err := New(Config{Pools: []PoolConfig{{Name: "default", Dir: dir}}, StateDir: state, Runner: command.New()})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(b.Init(t.Context()), b.Close())
}

func TestInitTwiceSucceedsAndKeepsThePool(t *testing.T) {
	dir, state := filepath.Join(scratch.Btrfs(t, 1, 2*volume.GiB), "pool"), t.TempDir()
	var ids []volume.PoolID
	for range 2 {
		if err := initPool(t, state, dir); err != nil {
			t.Fatal(err)
		}
		status, err := Inspect(t.Context(), Inspection{StateDir: state})
		if err != nil || len(status) != 1 || !status[0].Available {
			t.Fatalf("%+v, %v", status, err)
		}
		ids = append(ids, status[0].ID)
	}
	if ids[0] != ids[1] {
		t.Errorf("a second init made another pool: %v", ids)
	}
}

func TestInitRefusesWhatIsNoPlaceForAPool(t *testing.T) {
	mnt := scratch.Btrfs(t, 1, 2*volume.GiB)
	if err := os.WriteFile(filepath.Join(mnt, "precious"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := initPool(t, t.TempDir(), mnt); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "precious") {
		t.Errorf("a directory with a file in it: %v", err)
	}
	if err := initPool(t, t.TempDir(), t.TempDir()); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("a directory that is not on btrfs: %v", err)
	}
	if _, err := os.Stat(filepath.Join(mnt, volumesDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused directory was changed: %v", err)
	}
}

func TestMirroredDataProfilesAreRefused(t *testing.T) {
	mnt := scratch.Btrfs(t, 2, 2*volume.GiB, "--data", "raid1", "--metadata", "raid1")
	err := initPool(t, t.TempDir(), filepath.Join(mnt, "pool"))
	if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "raid1") {
		t.Errorf("a mirror whose stale half nothing can tell from the good one: %v", err)
	}
}

// A disk that was not mounted shows the directory below it.
func TestARegisteredPoolThatIsNotMountedIsNotMadeAnew(t *testing.T) {
	mnt, state := scratch.Btrfs(t, 1, 2*volume.GiB), t.TempDir()
	dir := filepath.Join(mnt, "pool")
	if err := initPool(t, state, dir); err != nil {
		t.Fatal(err)
	}
	root, err := mount.OpenRoot(filepath.Dir(mnt))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Unmount(t.Context(), mnt); err != nil {
		t.Fatal(err)
	}
	if err := initPool(t, state, dir); err == nil {
		t.Error("it was made again on the disk below")
	}
	if entries, err := os.ReadDir(mnt); err != nil || len(entries) > 1 {
		t.Errorf("something was written below the mountpoint: %v, %v", entries, err)
	}
}

func TestOneDriverAtATimeUsesAPool(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	second, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if p := second.Pools()[0]; p.Available || !strings.Contains(p.Reason, "another driver") || p.ID != b.Pools()[0].ID {
		t.Errorf("%+v", p)
	}
	if _, err := second.Volume(t.Context(), volume.NewID(volume.KindVolume, b.Pools()[0].ID, "a")); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("the second driver answered: %v", err)
	}
}

func TestChargesFollowSharing(t *testing.T) {
	b := newBench(t, 4*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	charged := func() volume.Bytes {
		t.Helper()
		p.mu.Lock()
		defer p.mu.Unlock()
		b, err := p.balanceLocked()
		if err != nil {
			t.Fatal(err)
		}
		return b.owed
	}
	spec := volume.Spec{Name: "a", Size: 256 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}}
	v, err := b.CreateVolume(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := charged(); got != v.Size {
		t.Errorf("an empty volume of %s is charged with %s", v.Size, got)
	}
	img, err := os.OpenFile(filepath.Join(p.dir.Name(), objectDir(v.ID), dataDir, imageFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if _, err := img.Write(make([]byte, 64*volume.MiB)); err != nil {
		t.Fatal(err)
	}
	if err := img.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := charged(); got != v.Size-64*volume.MiB {
		t.Errorf("with 64 MiB written it is charged with %s", got)
	}
	s, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: "s", Source: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	if got := charged(); got != v.Size {
		t.Errorf("with a snapshot, when nothing can be overwritten in place, it is charged with %s", got)
	}
	if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if got := charged(); got != v.Size {
		t.Errorf("while the snapshot is in the trash it is charged with %s", got)
	}
	if err := p.emptyTrash(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The kernel goes on to copy every block that is older than the snapshot.
	if got := charged(); got != v.Size {
		t.Errorf("alone again it is charged with %s", got)
	}
	b.reopen()
	p = b.poolNamed("default")
	if got := charged(); got != v.Size {
		t.Errorf("after a restart it is charged with %s", got)
	}
	// What is written now is the volume's own, and is overwritten in place.
	if _, err := img.WriteAt(make([]byte, 32*volume.MiB), 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := charged(); got != v.Size {
		t.Errorf("before it is measured it is charged with %s", got)
	}
	if err := p.measureAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := charged(); got != v.Size-32*volume.MiB {
		t.Errorf("with 32 MiB overwritten it is charged with %s", got)
	}
	if o, _ := p.lookup(v.ID); o.last.Mapped != 64*volume.MiB || o.last.Extents < 2 {
		t.Errorf("64 MiB were written, half of them again: %+v", o.last.usage)
	}
}

func TestAMeasurementDuringACopyIsNotBelieved(t *testing.T) {
	b := newBench(t, 4*volume.GiB, nil, "default")
	p := b.poolNamed("default")
	v := b.create(blockSpec("a"))
	o, _ := p.lookup(v.ID)
	p.forgetInPlace(v.ID)
	if err := p.settleUsage(v.ID, o.epoch, measured{usage: usage{InPlace: v.Size}}); err != nil {
		t.Error(err)
	}
	if o, _ := p.lookup(v.ID); o.inPlace != 0 {
		t.Errorf("%s are taken for in place", o.inPlace)
	}
}
