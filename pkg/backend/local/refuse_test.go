package local

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func TestInitGoesOnOnlyWithTheFilesystemThatIsAskedFor(t *testing.T) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	state, mnt := filepath.Join(dir, "state"), filepath.Join(dir, "pools", "ssd")
	t.Cleanup(func() { unmountAll(t, filepath.Join(dir, "pools")) })
	d.must(makeFilesystem(t.Context(), command.New(), FilesystemXFS, d.dev.Path()))
	if err := initDisk(t, nil, state, mnt, d.dev.Path()); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "wipefs") {
		t.Errorf("btrfs is asked for, xfs is there: %v", err)
	}

	// As an interrupted mkfs.xfs leaves it.
	f, err := os.OpenFile(d.dev.Path(), os.O_RDWR, 0)
	d.must(err)
	sector := make([]byte, 4096)
	_, err = f.ReadAt(sector, 0)
	d.must(err)
	write := func(inProgress byte) {
		t.Helper()
		sector[126] = inProgress
		clear(sector[224:228])
		binary.LittleEndian.PutUint32(sector[224:], crc32.Checksum(sector, crc32.MakeTable(crc32.Castagnoli)))
		_, err := f.WriteAt(sector, 0)
		d.must(err)
	}
	write(1)
	d.must(f.Sync())
	d.must(f.Close())
	if err := initDiskOn(t, FilesystemXFS, nil, state, mnt, d.dev.Path()); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("an interrupted mkfs: %v", err)
	}
	f, err = os.OpenFile(d.dev.Path(), os.O_RDWR, 0)
	d.must(err)
	write(0)
	d.must(f.Sync())
	d.must(f.Close())
	if err := initDiskOn(t, FilesystemXFS, nil, state, mnt, d.dev.Path()); err != nil {
		t.Errorf("a finished one: %v", err)
	}
}

// A pool image that is refused is not left mounted, also not on a host's filesystem
// that a pool could be on.
func TestARefusedAdoptionLeavesNothingMounted(t *testing.T) {
	host := filepath.Join(scratch.Btrfs(t, 1, 2*volume.GiB), "image")
	if err := os.MkdirAll(filepath.Join(host, MountDir), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountAll(t, host) })
	img, err := os.Create(filepath.Join(host, ImageFile))
	if err == nil {
		err = errors.Join(unix.Fallocate(int(img.Fd()), 0, 0, int64(diskSize)), img.Close())
	}
	if err == nil {
		err = makeFilesystem(t.Context(), command.New(), FilesystemBtrfs, filepath.Join(host, ImageFile))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := adopt(t, filepath.Join(t.TempDir(), "state"), PoolConfig{Name: "a", Dir: host}); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("there is no pool on it: %v", err)
	}
	if is, err := isMountpoint(filepath.Join(host, MountDir)); err != nil || is {
		t.Errorf("it is mounted: %t, %v", is, err)
	}
}

// Whether a pool is here is seen without a look at what is in it.
func TestAPoolIsHereWhateverIsInIt(t *testing.T) {
	b := newBench(t, 600*volume.MiB, nil, "default")
	regs, err := registrations(b.state)
	b.must(err)
	b.must(os.Rename(b.inPool(volumesDir), b.inPool("away")))
	b.must(isHere(regs[0]))
	b.must(os.Rename(b.inPool("away"), b.inPool(volumesDir)))
}
