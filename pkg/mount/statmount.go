package mount

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AttrOf are the properties of the mount that an open file is on, as opposed to those
// of its filesystem, which may be read-only besides. It takes two system calls, however
// many mounts there are; ok is false on a kernel that has them not (Linux 6.8), and
// then List knows. file may be open with O_PATH.
func AttrOf(file *os.File) (attr Attr, ok bool) {
	var st unix.Statx_t
	err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID_UNIQUE, &st)
	if err != nil || st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return 0, false
	}
	ask := mountIDRequest{size: uint32(unsafe.Sizeof(mountIDRequest{})), id: st.Mnt_id, param: statmountBasic}
	var answer mountStatus
	_, _, errno := unix.Syscall6(unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(&ask)), uintptr(unsafe.Pointer(&answer)), unsafe.Sizeof(answer), 0, 0, 0)
	runtime.KeepAlive(file)
	if errno != 0 || answer.mask&statmountBasic == 0 {
		return 0, false
	}
	return Attr(answer.attr), true
}

// statmountBasic asks for what is the mount's own (include/uapi/linux/mount.h,
// STATMOUNT_MNT_BASIC).
const statmountBasic = 0x2

// mountIDRequest is struct mnt_id_req in its first version.
type mountIDRequest struct {
	size, _   uint32
	id, param uint64
}

// mountStatus is the beginning of struct statmount, and room for the rest, which is of
// no interest.
type mountStatus struct {
	size, options    uint32
	mask             uint64
	major, minor     uint32
	magic            uint64
	flags, fsType    uint32
	id, parent       uint64
	oldID, oldParent uint32
	attr             uint64
	_                [512]byte
}
