package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/loop"
)

// maxHolders bounds how many processes an error message names.
const maxHolders = 3

// holders says who keeps a loop device: this node, if it is staged here, one
// process for each other mount namespace that has it mounted, and those that
// have its node open. It is for an error message, so what cannot be read is left
// out.
func holders(dev loop.Info) string {
	number := fmt.Sprintf(" %d:%d ", dev.Major, dev.Minor)
	node := fmt.Sprintf("/dev/loop%d", dev.Index)
	own, _ := os.Readlink("/proc/self/ns/mnt")
	var names []string
	if !dev.Autoclear || mountedIn("/proc/self", number) {
		names = append(names, "this node, where it is staged")
	}
	seen := map[string]bool{own: true}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		if len(names) == maxHolders {
			names = append(names, "and others")
			break
		}
		if proc == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		namespace, _ := os.Readlink(filepath.Join(proc, "ns/mnt"))
		holds := namespace != "" && !seen[namespace] && mountedIn(proc, number)
		seen[namespace] = true
		if holds || opens(proc, node) {
			comm, _ := os.ReadFile(filepath.Join(proc, "comm"))
			names = append(names, fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(proc)))
		}
	}
	if names == nil {
		return "no process that can be seen from here"
	}
	return strings.Join(names, ", ")
}

// mountedIn reports whether the mount namespace of a process has the device of a
// number, " MAJOR:MINOR ", mounted.
func mountedIn(proc, number string) bool {
	info, _ := os.ReadFile(filepath.Join(proc, "mountinfo"))
	return strings.Contains(string(info), number)
}

func opens(proc, node string) bool {
	fds, _ := filepath.Glob(filepath.Join(proc, "fd/*"))
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); target == node {
			return true
		}
	}
	return false
}
