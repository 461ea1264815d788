package xfs

import (
	"fmt"
	"os"
	"unsafe"
)

// Extent is a stretch of a file that has space, in bytes.
type Extent struct {
	Offset, Length int64
	// Start is where it lies on the device; 0 if it has no place yet.
	Start int64
	// Shared: other files have the same space, or had it and the kernel does not
	// know better yet. Overwriting takes new space.
	Shared bool
}

// Flags of struct fiemap_extent, include/uapi/linux/fiemap.h.
const (
	fiemapLast   = 0x0001
	fiemapShared = 0x2000
)

// chunkExtents is how many extents are read by one call of the kernel: writers
// wait for no more than that (measured: under a millisecond).
const chunkExtents = 1024

// WalkExtents calls visit for each extent of a file, in order, until it returns an
// error, and returns that. Space for data that is still in the page cache counts as extents too. A
// file that is written to meanwhile may show each part as it was at any time
// during the walk.
func WalkExtents(f *os.File, visit func(Extent) error) error {
	type fiemapExtent struct { // struct fiemap_extent
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
	args := struct { // struct fiemap
		start, length        uint64
		flags, mapped, count uint32
		_                    uint32
		extents              [chunkExtents]fiemapExtent
	}{}
	for start := uint64(0); ; {
		args.start, args.length, args.flags, args.mapped, args.count = start, ^uint64(0)-start, 0, 0, chunkExtents
		if err := ioctl(f, iocFiemap, unsafe.Pointer(&args)); err != nil {
			return fmt.Errorf("read the extents of %s from %d on: %w", f.Name(), start, err)
		}
		for _, e := range args.extents[:args.mapped] {
			err := visit(Extent{Offset: int64(e.logical), Length: int64(e.length), Start: int64(e.physical), Shared: e.flags&fiemapShared != 0})
			if err != nil || e.flags&fiemapLast != 0 {
				return err
			}
			start = e.logical + e.length
		}
		if args.mapped == 0 {
			return nil
		}
	}
}
