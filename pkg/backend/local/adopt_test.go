package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func adopt(t *testing.T, state string, pc PoolConfig) error {
	t.Helper()
	b, err := New(Config{Pools: []PoolConfig{pc}, StateDir: state, Runner: command.New()})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(b.Adopt(t.Context()), b.Close())
}

func rawBlock(name string) volume.Spec {
	return volume.Spec{Name: name, Size: 64 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}}
}

// registeredIn are the names of the pools in a state directory.
func registeredIn(t *testing.T, state string) (names []string) {
	t.Helper()
	pools, err := Inspect(t.Context(), Inspection{StateDir: state})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return names
}

func TestADiskMovesToAnotherNode(t *testing.T) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	old, mnt := filepath.Join(dir, "old"), filepath.Join(dir, "pools", "ssd")
	t.Cleanup(func() { unmountAll(t, filepath.Join(dir, "pools")) })
	d.must(initDisk(t, nil, old, mnt, d.dev.Path()))
	b := serveDisk(t, old, mnt)
	v, err := b.CreateVolume(t.Context(), rawBlock("a"))
	d.must(err)
	here := PoolConfig{Name: "moved", Dir: filepath.Join(dir, "pools", "moved"), Device: d.dev.Path()}
	state := filepath.Join(dir, "new")
	if err := adopt(t, state, here); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "another driver") {
		t.Errorf("a pool that somebody uses: %v", err)
	}
	d.must(b.Close())
	unmountAll(t, filepath.Join(dir, "pools"))

	// The driver never takes it by itself.
	d.must(os.RemoveAll(state))
	stranger, err := New(Config{Pools: []PoolConfig{{Name: "moved", Dir: mnt}}, StateDir: state, Runner: command.New()})
	d.must(err)
	d.must(initDisk(t, nil, old, mnt, d.dev.Path())) // which mounts it
	d.must(stranger.Start(t.Context()))
	if p := stranger.Pools()[0]; p.Available || !strings.Contains(p.Reason, "driver pool adopt moved=") {
		t.Errorf("a driver took a strange pool: %+v", p)
	}
	d.must(stranger.Close())
	unmountAll(t, filepath.Join(dir, "pools"))

	for range 2 { // a second time nothing is left to do
		d.must(adopt(t, state, here))
	}
	pools, err := Inspect(t.Context(), Inspection{StateDir: state, Pool: "moved", Extents: true})
	if err != nil || len(pools) != 1 || pools[0].Kind != "disk" || len(pools[0].Objects) != 1 || pools[0].Objects[0].ID != v.ID {
		t.Errorf("%+v, %v", pools, err)
	}
	unmountAll(t, filepath.Join(dir, "pools"))
	engine, err := New(Config{Pools: []PoolConfig{{Name: "moved", Dir: here.Dir}}, StateDir: state, Runner: command.New()})
	d.must(err)
	d.must(engine.Start(t.Context()))
	defer engine.Close()
	if _, err := engine.Volume(t.Context(), v.ID); err != nil {
		t.Error(err)
	}
}

func TestAPoolWhoseStateDirectoryWasLostIsAdopted(t *testing.T) {
	b := newBench(t, 640*volume.MiB, nil, "default")
	v, err := b.CreateVolume(t.Context(), rawBlock("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.cfg.StateDir = filepath.Join(b.dir, "new-state")
	b.open()
	if p := b.Pools()[0]; p.Available || !strings.Contains(p.Reason, "driver pool adopt default="+b.cfg.Pools[0].Dir) {
		t.Errorf("%+v", p)
	}
	// While the driver tries again and again, and after a reboot.
	if err := adopt(t, b.cfg.StateDir, PoolConfig{Name: "default", Dir: b.cfg.Pools[0].Dir}); err != nil {
		t.Fatal(err)
	}
	b.slots[0].tryOpen(t.Context())
	if _, err := b.Volume(t.Context(), v.ID); err != nil {
		t.Error(err)
	}
	if err := errors.Join(b.Close(), teardown.Below(context.Background(), b.dir)); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(b.dir, "third-state")
	if err := adopt(t, state, PoolConfig{Name: "default", Dir: b.cfg.Pools[0].Dir}); err != nil {
		t.Fatal(err)
	}
	b.cfg.StateDir = state
	b.open()
	if _, err := b.Volume(t.Context(), v.ID); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoPoolIsNotAdopted(t *testing.T) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	state := filepath.Join(dir, "state")
	pools := filepath.Join(dir, "pools")
	t.Cleanup(func() { unmountAll(t, pools) })
	mustRefuse := func(what string, pc PoolConfig, want error, words string) {
		t.Helper()
		before := registeredIn(t, state)
		if err := adopt(t, state, pc); !errors.Is(err, want) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
		if now := registeredIn(t, state); len(now) != len(before) {
			t.Errorf("%s: registered are %v", what, now)
		}
		if pc.Device == "" {
			return
		}
		if err := checkMountpoint(pc.Dir); err != nil {
			t.Errorf("%s: it stays mounted: %v", what, err)
		}
	}
	onDisk := PoolConfig{Name: "ssd", Dir: filepath.Join(pools, "ssd"), Device: d.dev.Path()}
	mustRefuse("a blank disk", onDisk, volume.ErrPrecondition, "no filesystem")
	_, err := command.New().Run(t.Context(), "mkfs.btrfs", "-q", d.dev.Path())
	d.must(err)
	mustRefuse("a disk without a pool", onDisk, volume.ErrPrecondition, "driver pool init")
	second := newDrive(t, dir, "raid", diskSize)
	_, err = command.New().Run(t.Context(), "mkfs.btrfs", "-q", "-f", "-d", "raid1", "-m", "raid1", d.dev.Path(), second.dev.Path())
	d.must(err)
	mustRefuse("one half of a mirror", onDisk, volume.ErrPrecondition, "2 devices")
	mnt := scratch.Btrfs(t, 1, diskSize)
	mustRefuse("an empty directory", PoolConfig{Name: "dir", Dir: mnt}, volume.ErrPrecondition, "driver pool init")

	// The files of a pool on another filesystem are a copy.
	d.must(initPool(t, filepath.Join(dir, "other"), mnt))
	copied := filepath.Join(scratch.Btrfs(t, 1, diskSize), "copy")
	_, err = command.New().Run(t.Context(), "cp", "-a", mnt, copied)
	d.must(err)
	mustRefuse("a copy", PoolConfig{Name: "copy", Dir: copied}, volume.ErrUnavailable, "copied")

	d.must(adopt(t, state, PoolConfig{Name: "dir", Dir: mnt}))
	another := scratch.Btrfs(t, 1, diskSize)
	d.must(initPool(t, filepath.Join(dir, "third"), another))
	mustRefuse("a name that is taken", PoolConfig{Name: "dir", Dir: another}, volume.ErrExists, "another name")

	// Two copies of a disk.
	disk := newDrive(t, dir, "second", diskSize)
	d.must(initDisk(t, nil, filepath.Join(dir, "fourth"), onDisk.Dir, disk.dev.Path()))
	unmountAll(t, pools)
	twin := newDrive(t, dir, "twin", diskSize)
	_, err = command.New().Run(t.Context(), "cp", "--sparse=always", disk.file, twin.file)
	d.must(err)
	onDisk.Device = disk.dev.Path()
	mustRefuse("one of two copies", onDisk, volume.ErrUnavailable, twin.dev.Path())
}
