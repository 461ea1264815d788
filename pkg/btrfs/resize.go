package btrfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	iocResize  = 0x50009403
	iocDevInfo = 0xd000941e
)

// devices is how many devices the filesystem of f is spread over, and the largest
// id that one of them has.
func devices(f *os.File) (n, maxID uint64, err error) {
	var raw [1024]byte // struct btrfs_ioctl_fs_info_args
	if err := ioctl(f, iocFSInfo, unsafe.Pointer(&raw)); err != nil {
		return 0, 0, fmt.Errorf("read filesystem info of %s: %w", f.Name(), err)
	}
	return binary.NativeEndian.Uint64(raw[8:]), binary.NativeEndian.Uint64(raw[:]), nil
}

// Device is the one device of a filesystem.
type Device struct {
	ID uint64
	// Bytes is what the filesystem uses of it, which may be less than it has.
	Bytes int64
}

// OnlyDevice is the device of the filesystem of f. It is unix.ENOTUNIQ if there are
// several.
func OnlyDevice(f *os.File) (Device, error) {
	n, maxID, err := devices(f)
	if err != nil {
		return Device{}, err
	}
	if n != 1 {
		return Device{}, fmt.Errorf("the filesystem of %s has %d devices: %w", f.Name(), n, unix.ENOTUNIQ)
	}
	for id := uint64(1); id <= maxID; id++ { // a device that was replaced leaves a gap
		var raw [4096]byte // struct btrfs_ioctl_dev_info_args
		binary.NativeEndian.PutUint64(raw[:], id)
		err := ioctl(f, iocDevInfo, unsafe.Pointer(&raw))
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return Device{}, fmt.Errorf("read device %d of the filesystem of %s: %w", id, f.Name(), err)
		}
		const totalOffset = 8 + 16 + 8
		return Device{ID: id, Bytes: int64(binary.NativeEndian.Uint64(raw[totalOffset:]))}, nil
	}
	return Device{}, fmt.Errorf("find the device of the filesystem of %s: %w", f.Name(), unix.ENODEV)
}

// Grow makes a mounted filesystem as large as its device (BTRFS_IOC_RESIZE), while
// it is used. One that is as large already stays as it is.
func Grow(f *os.File, device uint64) error {
	args := volArgs{}
	copy(args.name[:], strconv.FormatUint(device, 10)+":max")
	if err := ioctl(f, iocResize, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("grow the filesystem of %s to its device: %w", f.Name(), err)
	}
	return nil
}
