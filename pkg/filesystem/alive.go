package filesystem

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Alive opens the directory root of a mounted filesystem once more, without
// writing anything: nil if that works, volume.ErrPrecondition if the filesystem
// answers with an error, as an XFS does that has shut itself down; statfs and
// mountinfo do not show that. An ext4 that has given up still opens, and shows it
// in mountinfo: see mount.Info.Failed. Health is both.
func Alive(root *os.File) error {
	fd, err := unix.Openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: the filesystem at %s does not answer; look into the kernel's log, stop the pods that use it, and start them again: %w",
			volume.ErrPrecondition, root.Name(), err)
	}
	return unix.Close(fd)
}
