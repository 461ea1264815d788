package filesystem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Alive asks a mounted filesystem, of which root is any open directory (open with
// O_PATH too), something that one which has shut itself down answers with an
// error; statfs and mountinfo do not show that for XFS, nor for ext4 before Linux
// 6.15. It is volume.ErrPrecondition for such a one; any other error, such as that
// of a process which has no file descriptor left, says nothing about the
// filesystem. Nothing is written, waited for or read from the disk.
//
// An ext4 that only refuses to write (Linux 6.15, emergency_ro) still answers, and
// shows it in mountinfo: see mount.Info.Failed. Health is both.
func Alive(root *os.File) error {
	err := ask(root)
	switch {
	case err == nil:
		return nil
	case IsDead(err):
		return fmt.Errorf("%w: the filesystem at %s does not answer; look into the kernel's log, stop the pods that use it, and start them again: %w",
			volume.ErrPrecondition, root.Name(), err)
	}
	return fmt.Errorf("ask the filesystem at %s whether it is alive: %w", root.Name(), err)
}

// IsDead says whether an error is one that a filesystem which has shut itself down
// answers with: EIO (XFS, ext4), ESHUTDOWN (ext4 since Linux 6.11) or EUCLEAN (both,
// for damage).
func IsDead(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ESHUTDOWN) || errors.Is(err, unix.EUCLEAN)
}

// ask opens the directory once more, which XFS refuses after a shutdown, and asks
// for an attribute that nobody has, which ext4 refuses (fs/ext4/xattr.c,
// ext4_xattr_get) although it still opens directories.
func ask(root *os.File) error {
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Fgetxattr(fd, "trusted.holdfast", nil)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
