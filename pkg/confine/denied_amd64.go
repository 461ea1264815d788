package confine

import "golang.org/x/sys/unix"

// deniedHere are calls that only this architecture has.
func deniedHere() []uint32 {
	return []uint32{unix.SYS_MKNOD, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_USELIB, unix.SYS_MODIFY_LDT}
}
