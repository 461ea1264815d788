package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Denied are the numbers of the system calls that Process forbids: EPERM.
//
// Beside them a new process or thread gets no namespace of its own, in which it would
// have every capability: clone with such a flag is EPERM, and clone3, whose flags a
// filter cannot see, is ENOSYS, after which everybody takes clone.
func Denied() []uint32 {
	return append(deniedHere(), []uint32{
		// Code in the kernel, and other kernels.
		unix.SYS_BPF, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
		unix.SYS_PERF_EVENT_OPEN, unix.SYS_REBOOT, unix.SYS_IO_URING_SETUP, unix.SYS_USERFAULTFD,
		// Other processes, and their secrets.
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
		unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
		// Out of the container.
		unix.SYS_SETNS, unix.SYS_UNSHARE, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_MKNODAT,
		// Programs.
		unix.SYS_EXECVE, unix.SYS_EXECVEAT,
		// The machine.
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ADJTIMEX, unix.SYS_CLOCK_ADJTIME,
		unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG, unix.SYS_PERSONALITY,
	}...)
}

// namespaces are the flags of clone(2) for a namespace of its own.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Offsets in struct seccomp_data (kernel, include/uapi/linux/seccomp.h).
const (
	offsetNumber = 0
	offsetArch   = 4
	// offsetFlags is the lower half of the first argument, on machines that have it
	// first, which all are whose numbers are known here.
	offsetFlags = 16
	// x32 is the bit in the number of a system call of that interface of amd64.
	x32 = 0x40000000
)

func forbid(calls []uint32) error {
	var arch uint32
	switch runtime.GOARCH {
	case "amd64":
		arch = unix.AUDIT_ARCH_X86_64
	case "arm64":
		arch = unix.AUDIT_ARCH_AARCH64
	default:
		return errors.New("forbid system calls: their numbers on " + runtime.GOARCH + " are not known here")
	}
	filter := program(arch, calls)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// For all threads in one step.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("forbid system calls: %w", errno)
	}
	return nil
}

// program is a filter that forbids calls, namespaces, and every call by numbers of
// another architecture.
func program(arch uint32, calls []uint32) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	result := func(value uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
	}
	is := func(number uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jf: skip}
	}
	deny, allow := result(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)), result(unix.SECCOMP_RET_ALLOW)
	filter := []unix.SockFilter{
		load(offsetArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: arch, Jt: 1},
		deny,
		load(offsetNumber),
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: x32, Jf: 1},
		deny,
	}
	for _, c := range calls {
		filter = append(filter, is(c, 1), deny)
	}
	return append(filter,
		is(unix.SYS_CLONE3, 1), result(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)),
		is(unix.SYS_CLONE, 3), load(offsetFlags), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: namespaces, Jf: 1}, deny,
		allow,
	)
}
