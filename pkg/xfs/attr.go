package xfs

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attr is struct fsxattr of include/uapi/linux/fs.h.
type attr struct {
	flags      uint32
	extentSize uint32 // bytes
	extents    uint32
	project    uint32
	cowExtSize uint32 // bytes
	_          [8]byte
}

// Flags of struct fsxattr.
const (
	flagRealtime   = 0x00000001
	flagImmutable  = 0x00000008
	flagDAX        = 0x00008000
	flagCowExtSize = 0x00010000
)

func getAttr(f *os.File) (attr, error) {
	var a attr
	if err := ioctl(f, iocFSGetXattr, unsafe.Pointer(&a)); err != nil {
		return attr{}, fmt.Errorf("read the attributes of %s: %w", f.Name(), err)
	}
	return a, nil
}

func setAttr(f *os.File, a attr) error {
	return ioctl(f, iocFSSetXattr, unsafe.Pointer(&a))
}

// Extents is the number of extents of a file, holes not counted. It costs the
// same for any file.
func Extents(f *os.File) (int, error) {
	a, err := getAttr(f)
	return int(a.extents), err
}

// SetCowExtSize sets the unit, in bytes, in which the kernel takes new space when
// shared blocks of a file are overwritten: 0 is its default of 32 blocks, one
// block takes no more than what is written. What is taken and not written is
// given back after some minutes (fs.xfs.speculative_cow_prealloc_lifetime) or by
// ReleasePreallocated. FICLONE of a whole file hands the setting on.
func SetCowExtSize(f *os.File, size uint32) error {
	a, err := getAttr(f)
	if err != nil {
		return err
	}
	a.cowExtSize = size
	a.flags |= flagCowExtSize
	if size == 0 {
		a.flags &^= flagCowExtSize
	}
	if err := setAttr(f, a); err != nil {
		return fmt.Errorf("set the copy-on-write extent size of %s to %d: %w", f.Name(), size, err)
	}
	return nil
}

// CowExtSize is what SetCowExtSize has set; 0 is the kernel's default.
func CowExtSize(f *os.File) (uint32, error) {
	a, err := getAttr(f)
	return a.cowExtSize, err
}

// SetImmutable makes a file immutable, or lets it change again. The kernel then
// refuses everybody who would write to it, cut it, rename or remove it; only
// writers that had it open before go on.
func SetImmutable(f *os.File, on bool) error {
	a, err := getAttr(f)
	if err != nil {
		return err
	}
	flags := a.flags &^ flagImmutable
	if on {
		flags |= flagImmutable
	}
	if flags == a.flags {
		return nil
	}
	a.flags = flags
	if err := setAttr(f, a); err != nil {
		return fmt.Errorf("set the immutable flag of %s to %v: %w", f.Name(), on, err)
	}
	return nil
}

// Immutable reports whether a file is immutable.
func Immutable(f *os.File) (bool, error) {
	a, err := getAttr(f)
	return a.flags&flagImmutable != 0, err
}

// CopyAttributes gives an empty file what it must have in common with src for
// their extents to be shared, and src's extent sizes (FICLONE refuses a file on
// another device than its source's with EINVAL).
func CopyAttributes(src, dst *os.File) error {
	from, err := getAttr(src)
	if err != nil {
		return err
	}
	to, err := getAttr(dst)
	if err != nil {
		return err
	}
	const shared = flagRealtime | flagDAX | flagCowExtSize
	to.flags = to.flags&^shared | from.flags&shared
	to.cowExtSize = from.cowExtSize
	if err := setAttr(dst, to); err != nil {
		return fmt.Errorf("give %s the attributes of %s: %w", dst.Name(), src.Name(), err)
	}
	return nil
}

// Clone makes dst share all extents of src, at one instant, and gives it src's
// size (FICLONE). Writers of src wait meanwhile: about 10 microseconds for each
// extent that dst does not share yet, and half of one for each that it does.
func Clone(src, dst *os.File) error {
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		return fmt.Errorf("clone %s to %s: %w", src.Name(), dst.Name(), err)
	}
	return nil
}

// CloneRange makes length bytes of dst from offset on share the extents of src
// (FICLONERANGE). Both are multiples of the block size, or end with the file. A
// hole becomes a hole; dst grows as far as it must.
func CloneRange(src, dst *os.File, offset, length int64) error {
	r := unix.FileCloneRange{
		Src_fd: int64(src.Fd()), Src_offset: uint64(offset), Src_length: uint64(length), Dest_offset: uint64(offset),
	}
	if err := unix.IoctlFileCloneRange(int(dst.Fd()), &r); err != nil {
		return fmt.Errorf("clone %d bytes at %d of %s to %s: %w", length, offset, src.Name(), dst.Name(), err)
	}
	return nil
}
