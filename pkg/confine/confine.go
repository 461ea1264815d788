// Package confine takes from this process what it does not need, for good: a
// container that mounts must be privileged, and Kubernetes confines no such container.
//
// It promises that after Process no thread of this process, and nothing that it could
// start, has a capability that was not asked for, can gain one, or can make one of the
// system calls that Denied lists: those that load code into the kernel, look into other
// processes, leave the container, or run programs. It asks nobody for anything and
// gives nothing back.
//
// It is no sandbox for code that is hostile from the start: who has CAP_SYS_ADMIN can
// do much with mounts alone.
package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Process keeps these capabilities, of those that the process has, and drops all
// others; then forbids the system calls of Denied, on all threads. It is called once,
// early, while there are few.
//
// It works in a program without cgo only.
func Process(capabilities ...int) error {
	if err := onAllThreads("promise to gain no privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	if err := keep(capabilities); err != nil {
		return err
	}
	return forbid(Denied())
}

// onAllThreads makes one system call on each thread. The runtime ends the process if
// it has not the same result on all.
func onAllThreads(doing string, trap, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0); errno != 0 {
		return fmt.Errorf("%s: %w", doing, errno)
	}
	return nil
}

func keep(capabilities []int) error {
	last, err := lastCapability()
	if err != nil {
		return err
	}
	var mask [2]uint32
	for _, c := range capabilities {
		mask[c/32] |= 1 << (c % 32)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	if have[0].Permitted&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range last + 1 {
			if mask[c/32]&(1<<(c%32)) != 0 {
				continue
			}
			if err := onAllThreads(fmt.Sprintf("drop capability %d for good", c), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); err != nil {
				return err
			}
		}
	}
	if err := onAllThreads("drop the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return err
	}
	var want [2]unix.CapUserData
	for i := range want {
		left := have[i].Permitted & mask[i]
		want[i] = unix.CapUserData{Effective: left, Permitted: left}
	}
	err = onAllThreads("drop capabilities", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0])), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&want)
	return err
}

func lastCapability() (int, error) {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, fmt.Errorf("find the last capability: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 0 || n > 63 {
		return 0, fmt.Errorf("find the last capability: the kernel says %q", text)
	}
	return n, nil
}

// Denied are the numbers of the system calls that Process forbids: EPERM.
func Denied() []uint32 {
	return []uint32{
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
	}
}

// Offsets in struct seccomp_data (kernel, include/uapi/linux/seccomp.h).
const (
	offsetNumber = 0
	offsetArch   = 4
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

// program is a filter that forbids calls, and every call by numbers of another
// architecture.
func program(arch uint32, calls []uint32) []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	deny := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	filter := []unix.SockFilter{
		load(offsetArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: arch, Jt: 1},
		deny,
		load(offsetNumber),
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: x32, Jf: 1},
		deny,
	}
	for _, c := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c, Jf: 1}, deny)
	}
	return append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
}
