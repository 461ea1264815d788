package filesystem

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Ext4Errors is how many errors a mounted ext4 on the block device of this name,
// such as "loop7", has found in itself since it was last checked (Linux
// Documentation/ABI/testing/sysfs-fs-ext4, errors_count). It is ErrNotFound if no
// ext4 is mounted from it.
func Ext4Errors(device string) (int, error) {
	data, err := os.ReadFile(filepath.Join("/sys/fs/ext4", device, "errors_count"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: no ext4 is mounted from %s", volume.ErrNotFound, device)
	}
	if err != nil {
		return 0, fmt.Errorf("read the error count of the ext4 on %s: %w", device, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("read the error count of the ext4 on %s: %w", device, err)
	}
	return n, nil
}

// Writable tries whether a mounted ext4, of which root is any open directory (not
// with O_PATH), still takes changes: it sets the flags of that directory to what
// they are, for which ext4 must start a transaction (fs/ext4/ioctl.c,
// ext4_ioctl_setflags). That changes the directory's change time and nothing else.
// It is volume.ErrPrecondition for a filesystem that refuses.
//
// It waits for as long as the filesystem is frozen, and for the disk. mountinfo
// shows the same from Linux 6.15 on; this is for older ones, and only for a
// filesystem that is suspected.
func Writable(root *os.File) error {
	var flags uint32
	err := ioctl(root, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags))
	if err == nil {
		err = ioctl(root, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&flags))
	}
	if err != nil {
		return fmt.Errorf("%w: the filesystem at %s refuses to be changed: %w", volume.ErrPrecondition, root.Name(), err)
	}
	return nil
}
