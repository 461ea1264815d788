package btrfs

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	iocDefragRange = 0x40309410
	// defragStartIO is BTRFS_DEFRAG_RANGE_START_IO: write out what was rewritten.
	defragStartIO = 2

	rewriteAttempts = 100
)

// Rewrite gives a part of an open file new extents (BTRFS_IOC_DEFRAG_RANGE), NOCOW
// or not, also while others write to it: the kernel locks the part. Its old extents
// are free when nothing refers to them any more, after the next commit. What is one
// piece with its neighbours already, or a hole, stays as it is. The file must be
// open for writing.
func Rewrite(f *os.File, offset, length int64) error {
	args := struct { // struct btrfs_ioctl_defrag_range_args
		start, length, flags   uint64
		extentThresh, compress uint32
		unused                 [4]uint32
	}{start: uint64(offset), length: uint64(length), flags: defragStartIO, extentThresh: 1 << 30}
	var err error
	for range rewriteAttempts {
		// EAGAIN: a signal came in between, of which Go's scheduler sends many.
		if err = ioctl(f, iocDefragRange, unsafe.Pointer(&args)); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("rewrite %d bytes of %s at %d: %w", length, f.Name(), offset, err)
	}
	return nil
}
