package filesystem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	fiFreeze = 0xC0045877 // _IOWR('X', 119, int), include/uapi/linux/fs.h
	fiThaw   = 0xC0045878 // _IOWR('X', 120, int)
)

// Freeze writes out a mounted filesystem, of which root is any open directory, and
// stops every write to it until Thaw: the writers wait, and cannot be killed. So
// Sync first, to make the freeze short, and make sure that somebody thaws it if
// this process dies: nothing else does. It is volume.ErrBusy if it is frozen
// already.
func Freeze(root *os.File) error {
	err := ioctl(root, fiFreeze, nil)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: it is frozen already: %w", volume.ErrBusy, err)
	}
	if err != nil {
		return fmt.Errorf("freeze the filesystem at %s: %w", root.Name(), err)
	}
	return nil
}

// Thaw undoes Freeze, whoever did it. One that is not frozen is success.
func Thaw(root *os.File) error {
	_, err := ThawIfFrozen(root)
	return err
}

// ThawIfFrozen is Thaw that says whether there was something to undo. Who froze a
// filesystem and finds it not frozen any more learns that somebody has thawed it
// meanwhile (EINVAL).
func ThawIfFrozen(root *os.File) (frozen bool, err error) {
	switch err := ioctl(root, fiThaw, nil); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EINVAL):
		return false, nil
	default:
		return false, fmt.Errorf("thaw the filesystem at %s: %w", root.Name(), err)
	}
}

// Sync writes out everything that a mounted filesystem, of which root is any open
// directory, still holds in memory. On a frozen one it returns at once.
func Sync(root *os.File) error {
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return fmt.Errorf("write out the filesystem at %s: %w", root.Name(), err)
	}
	return nil
}
