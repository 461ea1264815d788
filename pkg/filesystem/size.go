package filesystem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Size is the size of a mounted filesystem, of which root is any open directory.
// It is the size that growth changes: what statfs(2) calls total is less.
func Size(root *os.File, t volume.FSType) (volume.Bytes, error) {
	var (
		size volume.Bytes
		err  error
	)
	switch t {
	case volume.Ext4:
		var sb Superblock
		sb, err = ext4Superblock(root)
		size = sb.Size
	case volume.XFS:
		var g geometry
		g, err = xfsGeometry(root)
		size = volume.Bytes(g.DataBlocks) * volume.Bytes(g.BlockSize)
	default:
		err = fmt.Errorf("%w: supported are %s and %s", volume.ErrInvalid, volume.Ext4, volume.XFS)
	}
	if err != nil {
		return 0, fmt.Errorf("read the size of the mounted %s filesystem: %w", t, err)
	}
	return size, nil
}

// geometry is the part of struct xfs_fsop_geom_v1 that is of use here, padded to
// its whole length.
type geometry struct {
	BlockSize  uint32
	_          [6]uint32
	IMaxPct    uint32
	DataBlocks uint64
	_          [9]uint64
}

func xfsGeometry(root *os.File) (geometry, error) {
	const xfsIocFSGeometryV1 = 0x80705864 // _IOR('X', 100, struct xfs_fsop_geom_v1)
	var g geometry
	if err := ioctl(root, xfsIocFSGeometryV1, unsafe.Pointer(&g)); err != nil {
		return geometry{}, err
	}
	if g.BlockSize == 0 {
		return geometry{}, errors.New("the kernel says that the block size is 0")
	}
	return g, nil
}

// ext4Superblock reads it through the block device, where the kernel keeps the one
// that it works with; no call asks a mounted ext4 for its size.
func ext4Superblock(root *os.File) (Superblock, error) {
	dev, err := deviceOf(root)
	if err != nil {
		return Superblock{}, err
	}
	defer dev.Close()
	sb, err := ProbeInUse(dev)
	if err == nil && sb.Type != volume.Ext4 {
		err = fmt.Errorf("%w: it is %s", volume.ErrInvalid, sb.Type)
	}
	return sb, err
}

// deviceOf opens the block device below a mounted filesystem for reading.
func deviceOf(root *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return nil, err
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return nil, err
	}
	dev, err := os.Open("/dev/" + filepath.Base(link))
	if err != nil {
		return nil, err
	}
	var devSt unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &devSt); err != nil || devSt.Rdev != st.Dev {
		dev.Close()
		return nil, fmt.Errorf("%s is not block device %d:%d: %w", dev.Name(), unix.Major(st.Dev), unix.Minor(st.Dev), errors.Join(err, volume.ErrPrecondition))
	}
	return dev, nil
}

func ioctl(f *os.File, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
