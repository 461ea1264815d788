package local

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// What PoolConfig.Filesystem can be.
const (
	FilesystemBtrfs = "btrfs"
	FilesystemXFS   = "xfs"
)

func checkFilesystem(name string) error {
	switch name {
	case "", FilesystemBtrfs, FilesystemXFS:
		return nil
	}
	return fmt.Errorf("%w: a pool on %q: want %s or %s", volume.ErrInvalid, name, FilesystemBtrfs, FilesystemXFS)
}

// openStore finds the store for the filesystem of an open directory.
func openStore(dir *os.File) (store, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("statfs %s: %w", dir.Name(), err)
	}
	switch st.Type {
	case unix.BTRFS_SUPER_MAGIC:
		return newBtrfsStore(dir)
	case unix.XFS_SUPER_MAGIC:
		return newXFSStore(dir)
	}
	return nil, fmt.Errorf("%w: %s is on neither btrfs nor XFS; mount one of them there, or give --pool-size for a pool image", volume.ErrPrecondition, dir.Name())
}

// makeFilesystem makes the filesystem of a new pool, "" for the default, on an
// empty image or device, and discards nothing: an image keeps its blocks.
func makeFilesystem(ctx context.Context, runner command.Runner, fsType, path string) error {
	var argv []string
	switch fsType {
	case FilesystemXFS:
		// Of what kernel 5.15 knows all but rmapbt, whose records cost space for every
		// extent. Sectors of 4096 bytes, as those of the device.
		argv = []string{
			"mkfs.xfs", "-q", "-K", "-L", diskLabel, "-s", "size=4096", "-b", "size=4096",
			"-m", "crc=1,finobt=1,rmapbt=0,reflink=1,inobtcount=1,bigtime=1", "-i", "nrext64=0", "-d", "noalign", "--", path,
		}
	default:
		fsType = FilesystemBtrfs
		argv = []string{"mkfs.btrfs", "--quiet", "--nodiscard", "--metadata", "dup", "--data", "single", "--label", diskLabel, "--", path}
	}
	if _, err := runner.Run(ctx, argv...); err != nil {
		return fmt.Errorf("make the pool's %s: %w", fsType, err)
	}
	return nil
}
