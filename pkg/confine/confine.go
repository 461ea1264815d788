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
	"fmt"
	"os"
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

// onAllThreads makes one system call without pointers on each thread. The runtime ends the process if
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
	// Made here, and not by onAllThreads: what the pointers lead to must stay where it
	// is, which the compiler sees to where they become numbers.
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0])), 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
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
