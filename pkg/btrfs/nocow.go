package btrfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// fsNoCowFL is FS_NOCOW_FL of include/uapi/linux/fs.h.
const fsNoCowFL = 0x00800000

// SetNoCow makes an empty file overwrite in place, without checksums (chattr +C),
// and reads the flag back: on a file with data the kernel takes it and does
// nothing.
func SetNoCow(f *os.File) error {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return fmt.Errorf("read flags of %s: %w", f.Name(), err)
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|fsNoCowFL); err != nil {
		return fmt.Errorf("set the no-copy-on-write flag of %s: %w", f.Name(), err)
	}
	ok, err := NoCow(f)
	if err == nil && !ok {
		err = fmt.Errorf("set the no-copy-on-write flag of %s: the kernel did not keep it (a file with data?)", f.Name())
	}
	return err
}

// NoCow reports whether a file overwrites in place.
func NoCow(f *os.File) (bool, error) {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return false, fmt.Errorf("read flags of %s: %w", f.Name(), err)
	}
	return flags&fsNoCowFL != 0, nil
}
