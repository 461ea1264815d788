package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

const diskSize = 640 * volume.MiB

// drive is a loop device that stands for a disk.
type drive struct {
	t    *testing.T
	file string
	dev  *loop.Device
}

func newDrive(t *testing.T, dir, name string, size volume.Bytes) *drive {
	t.Helper()
	roottest.Require(t)
	// A loop on a file of this name goes with its mount (package teardown).
	base := filepath.Join(dir, name)
	d := &drive{t: t, file: filepath.Join(base, "pool.img")}
	d.must(os.MkdirAll(base, 0o700))
	d.must(os.WriteFile(d.file, nil, 0o600))
	d.must(os.Truncate(d.file, int64(size)))
	d.plug()
	t.Cleanup(d.unplug)
	return d
}

func (d *drive) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *drive) plug() {
	d.t.Helper()
	f, err := os.OpenFile(d.file, os.O_RDWR, 0)
	d.must(err)
	defer f.Close()
	d.dev, err = loop.Attach(context.Background(), loop.Config{Backing: f, Tag: "test-drive", BlockSize: 4096})
	d.must(err)
}

func (d *drive) unplug() {
	if err := d.dev.Close(); err != nil {
		d.t.Error(err)
	}
}

// initDisk makes a pool of a drive, mounted at dir.
func initDisk(t *testing.T, hook fault.Hook, state, dir, device string) error {
	t.Helper()
	return initDiskOn(t, FilesystemBtrfs, hook, state, dir, device)
}

// initDiskOn is initDisk with another filesystem.
func initDiskOn(t *testing.T, fsType string, hook fault.Hook, state, dir, device string) error {
	t.Helper()
	b, err := New(Config{
		Pools: []PoolConfig{{Name: "ssd", Dir: dir, Device: device, Filesystem: fsType}}, StateDir: state, Runner: command.New(), Fault: hook,
	})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(b.Init(t.Context()), b.Close())
}

// serveDisk is an engine that knows only the pool's name and directory.
func serveDisk(t *testing.T, state, dir string) *Backend {
	t.Helper()
	b, err := New(Config{Pools: []PoolConfig{{Name: "ssd", Dir: dir}}, StateDir: state, Runner: command.New()})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

// unmountAll takes down what is mounted below a directory.
func unmountAll(t *testing.T, dir string) {
	t.Helper()
	if err := teardown.Below(context.Background(), dir); err != nil {
		t.Error(err)
	}
}

func TestADiskBecomesAPoolThatTheDriverMounts(t *testing.T) {
	onEach(t, testADiskBecomesAPoolThatTheDriverMounts)
}

func testADiskBecomesAPoolThatTheDriverMounts(t *testing.T, fsType string) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	state, mnt := filepath.Join(dir, "state"), filepath.Join(dir, "pools", "ssd")
	t.Cleanup(func() { unmountAll(t, filepath.Join(dir, "pools")) })
	for range 2 { // a second time it is ready
		if err := initDiskOn(t, fsType, nil, state, mnt, d.dev.Path()); err != nil {
			t.Fatal(err)
		}
	}
	b := serveDisk(t, state, mnt)
	v, err := b.CreateVolume(t.Context(), volume.Spec{Name: "a", Size: 64 * volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}})
	if err != nil {
		t.Fatal(err)
	}
	d.must(b.Close())

	// A reboot, after which the disk has another name.
	unmountAll(t, filepath.Join(dir, "pools"))
	before := d.dev.Path()
	other := newDrive(t, dir, "other", diskSize)
	d.unplug()
	thief := newDrive(t, dir, "thief", diskSize)
	d.plug()
	if d.dev.Path() == before {
		t.Fatalf("the disk is %s again", before)
	}
	b = serveDisk(t, state, mnt)
	if got, err := b.Volume(t.Context(), v.ID); err != nil || got.Size != v.Size {
		t.Errorf("after a reboot: %+v, %v", got, err)
	}
	d.must(b.Close())

	// The disk is away, then back; the mountpoint has something in it.
	unmountAll(t, filepath.Join(dir, "pools"))
	d.unplug()
	b = serveDisk(t, state, mnt)
	if p := b.Pools()[0]; p.Available || p.ID != v.ID.Pool() || !strings.Contains(p.Reason, "nothing was created") {
		t.Errorf("without its disk: %+v", p)
	}
	d.plug()
	d.must(os.WriteFile(filepath.Join(mnt, "hidden"), nil, 0o600))
	b.slots[0].tryOpen(t.Context())
	if p := b.Pools()[0]; p.Available || !strings.Contains(p.Reason, "hidden") {
		t.Errorf("over a file: %+v", p)
	}
	d.must(os.Remove(filepath.Join(mnt, "hidden")))
	b.slots[0].tryOpen(t.Context())
	if p := b.Pools()[0]; !p.Available {
		t.Errorf("with its disk back: %+v", p)
	}
	d.must(b.Close())
	for _, o := range []*drive{other, thief} {
		var st unix.Stat_t
		if err := unix.Stat(o.file, &st); err != nil || st.Blocks > 0 {
			t.Errorf("another disk was written to: %d blocks, %v", st.Blocks, err)
		}
	}
}

func TestOfTwoCopiesOfADiskNoneIsMounted(t *testing.T) {
	onEach(t, testOfTwoCopiesOfADiskNoneIsMounted)
}

func testOfTwoCopiesOfADiskNoneIsMounted(t *testing.T, fsType string) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	state, mnt := filepath.Join(dir, "state"), filepath.Join(dir, "pools", "ssd")
	t.Cleanup(func() { unmountAll(t, filepath.Join(dir, "pools")) })
	d.must(initDiskOn(t, fsType, nil, state, mnt, d.dev.Path()))
	unmountAll(t, filepath.Join(dir, "pools"))
	twin := newDrive(t, dir, "twin", diskSize)
	_, err := command.New().Run(t.Context(), "cp", "--sparse=always", d.file, twin.file)
	d.must(err)
	b := serveDisk(t, state, mnt)
	defer b.Close()
	for _, words := range []string{d.dev.Path(), twin.dev.Path(), "copy"} {
		if p := b.Pools()[0]; p.Available || !strings.Contains(p.Reason, words) {
			t.Errorf("%+v: want %q", p, words)
		}
	}
	twin.must(os.Truncate(twin.file, 0))
	twin.must(os.Truncate(twin.file, int64(diskSize)))
	_, err = command.New().Run(t.Context(), "blockdev", "--flushbufs", twin.dev.Path())
	twin.must(err)
	b.slots[0].tryOpen(t.Context())
	if p := b.Pools()[0]; !p.Available {
		t.Errorf("without the copy: %+v", p)
	}
}

func TestWhatAPodWroteIsNotTakenForADisk(t *testing.T) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	state, mnt := filepath.Join(dir, "state"), filepath.Join(dir, "pools", "ssd")
	t.Cleanup(func() { unmountAll(t, filepath.Join(dir, "pools")) })
	d.must(initDisk(t, nil, state, mnt, d.dev.Path()))
	unmountAll(t, filepath.Join(dir, "pools"))
	f, err := os.OpenFile(d.file, os.O_RDWR, 0)
	d.must(err)
	defer f.Close()
	// A raw block volume with a copy of the pool's superblock.
	pod, err := loop.Attach(t.Context(), loop.Config{Backing: f, Tag: tagOf("vol.x.y"), BlockSize: 4096})
	d.must(err)
	defer pod.Close()
	b := serveDisk(t, state, mnt)
	defer b.Close()
	if p := b.Pools()[0]; !p.Available {
		t.Errorf("%+v", p)
	}
	if err := initDisk(t, nil, t.TempDir(), filepath.Join(dir, "pools", "pod"), pod.Path()); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("a pod's volume becomes a pool: %v", err)
	}
}

func TestADiskWithAnythingOnItIsRefused(t *testing.T) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	mnt := filepath.Join(dir, "pools", "ssd")
	run := func(argv ...string) {
		t.Helper()
		_, err := command.New().Run(t.Context(), append(argv, d.dev.Path())...)
		d.must(err)
	}
	type print struct {
		changed unix.Timespec
		blocks  int64
		edges   string
	}
	look := func() print {
		t.Helper()
		d.must(d.dev.Sync())
		f, err := os.Open(d.file)
		d.must(err)
		defer f.Close()
		edges := make([]byte, 2*volume.MiB)
		_, err = f.ReadAt(edges[:volume.MiB], 0)
		d.must(err)
		_, err = f.ReadAt(edges[volume.MiB:], int64(diskSize-volume.MiB))
		d.must(err)
		var st unix.Stat_t
		d.must(unix.Fstat(int(f.Fd()), &st))
		return print{st.Mtim, st.Blocks, string(edges)}
	}
	mustRefuse := func(what string, want error, words ...string) {
		t.Helper()
		before := look()
		state := t.TempDir()
		err := initDisk(t, nil, state, mnt, d.dev.Path())
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not speak of %q: %v", what, w, err)
			}
		}
		if look() != before {
			t.Errorf("%s: the disk was changed", what)
		}
		if regs, err := Inspect(t.Context(), Inspection{StateDir: state}); err != nil || len(regs) > 0 {
			t.Errorf("%s: registered: %v, %v", what, regs, err)
		}
	}
	blank := func() {
		t.Helper()
		d.unplug()
		d.must(os.Truncate(d.file, 0))
		d.must(os.Truncate(d.file, int64(diskSize)))
		d.plug()
	}
	for what, mkfs := range map[string][]string{
		"ext4":  {"mkfs.ext4", "-q"},
		"xfs":   {"mkfs.xfs", "-q", "-f"},
		"btrfs": {"mkfs.btrfs", "-q", "-f"},
		"swap":  {"mkswap", "-q"},
	} {
		blank()
		run(mkfs...)
		mustRefuse(what, volume.ErrPrecondition, what, "wipefs", "nothing was changed")
	}
	blank()
	run("mkfs.ext4", "-q")
	where := filepath.Join(dir, "ext4")
	d.must(os.Mkdir(where, 0o700))
	d.must(unix.Mount(d.dev.Path(), where, "ext4", 0, ""))
	mustRefuse("mounted", volume.ErrInUse, where)
	d.must(unix.Unmount(where, 0))

	blank()
	f, err := os.OpenFile(d.dev.Path(), os.O_WRONLY, 0)
	d.must(err)
	_, err = f.WriteAt([]byte("something"), int64(diskSize)-100)
	d.must(errors.Join(err, f.Close()))
	mustRefuse("the end of something", volume.ErrPrecondition, "last MiB")

	blank()
	held, err := os.OpenFile(d.dev.Path(), os.O_RDWR|unix.O_EXCL, 0)
	d.must(err)
	mustRefuse("held", volume.ErrInUse)
	d.must(held.Close())

	small := newDrive(t, dir, "small", 256*volume.MiB)
	if err := initDisk(t, nil, t.TempDir(), mnt, small.dev.Path()); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "512 MiB") {
		t.Errorf("too small: %v", err)
	}
	if err := initDisk(t, nil, t.TempDir(), mnt, d.file); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("a file: %v", err)
	}
	// The disk of another node's pool.
	unlabelled := filepath.Join(dir, "pools")
	d.must(initDisk(t, nil, t.TempDir(), mnt, d.dev.Path()))
	unmountAll(t, unlabelled)
	mustRefuse("a pool", volume.ErrPrecondition, "driver pool adopt")
	if mounted, err := new(disk.Search).WithFilesystem("", nil); err != nil || len(mounted.Devices) > 0 {
		t.Errorf("%v, %v", mounted, err)
	}
}

func TestInitOfADiskGoesOnAfterACrash(t *testing.T) { onEach(t, testInitOfADiskGoesOnAfterACrash) }

func testInitOfADiskGoesOnAfterACrash(t *testing.T, fsType string) {
	dir := t.TempDir()
	crash := errors.New("crash")
	for i, step := range []string{"pool-disk/made", "pool-disk/mounted", "pool/layout", "pool/register"} {
		d := newDrive(t, dir, "drive-"+strings.ReplaceAll(step, "/", "-"), diskSize)
		state, mnt := filepath.Join(dir, "state", step), filepath.Join(dir, "pools", step)
		d.must(os.MkdirAll(state, 0o700))
		var met []string
		err := initDiskOn(t, fsType, func(s string) error {
			met = append(met, s)
			if s == step {
				return crash
			}
			return nil
		}, state, mnt, d.dev.Path())
		if err == nil || !strings.Contains(err.Error(), "crash") || !slices.Contains(met, step) {
			t.Errorf("%s: %v, steps %v", step, err, met)
		}
		if i%2 == 0 { // by a process that stops, or by a machine that does
			unmountAll(t, filepath.Join(dir, "pools"))
		}
		d.must(initDiskOn(t, fsType, nil, state, mnt, d.dev.Path()))
		unmountAll(t, filepath.Join(dir, "pools"))
		b := serveDisk(t, state, mnt)
		if p := b.Pools()[0]; !p.Available {
			t.Errorf("%s: %+v", step, p)
		}
		d.must(b.Close())
		unmountAll(t, filepath.Join(dir, "pools"))
	}
}

// A name that was mistyped makes nothing.
func TestADeviceThatIsNotThereIsNoDirectory(t *testing.T) {
	dir := t.TempDir()
	typo := "/dev/holdfast-no-such-disk"
	_, err := New(Config{Pools: []PoolConfig{{Name: "ssd", Dir: typo}}, StateDir: filepath.Join(dir, "state"), Runner: command.New()})
	if !errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), "nothing was made") {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(typo); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", typo, err)
	}
	// Neither does a place that no pool can be on.
	place := filepath.Join(dir, "place")
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := filesystemAt(place); err == nil {
		t.Skip("the tests' own directory could be a pool")
	}
	if err := initPool(t, filepath.Join(dir, "state"), filepath.Join(place, "pool")); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("on the filesystem of the tests: %v", err)
	}
	if left, err := os.ReadDir(place); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
