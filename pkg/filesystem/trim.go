package filesystem

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const fiTrim = 0xC0185879 // _IOWR('X', 121, struct fstrim_range), include/uapi/linux/fs.h

// Trim tells the device below a mounted filesystem, of which root is any open
// directory, which blocks between two offsets no file uses (FITRIM), and returns
// how many bytes that are. Free space that is shorter than least in one piece is
// left alone. Sync first: what was deleted is not free before the journal says so
// (ext4). A frozen filesystem is trimmed too.
//
// It is volume.ErrPrecondition if the device refuses discards.
func Trim(root *os.File, from, to, least volume.Bytes) (volume.Bytes, error) {
	r := struct{ start, length, least uint64 }{uint64(from), uint64(to - from), uint64(least)} // struct fstrim_range
	err := ioctl(root, fiTrim, unsafe.Pointer(&r))
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: the device refuses discards: %w", volume.ErrPrecondition, err)
	}
	if err != nil {
		return 0, fmt.Errorf("trim the filesystem at %s: %w", root.Name(), err)
	}
	return volume.Bytes(r.length), nil
}
