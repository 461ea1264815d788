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

// holders names the processes that keep a loop device: one for each mount
// namespace that has it mounted, and those that have its node open. It is for an
// error message, so what cannot be read is left out.
func holders(dev loop.Info) string {
	number := fmt.Sprintf(" %d:%d ", dev.Major, dev.Minor)
	node := fmt.Sprintf("/dev/loop%d", dev.Index)
	var names []string
	seen := map[string]bool{}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		if len(names) == maxHolders {
			names = append(names, "and others")
			break
		}
		namespace, _ := os.Readlink(filepath.Join(proc, "ns/mnt"))
		mounted := false
		if namespace != "" && !seen[namespace] {
			seen[namespace] = true
			info, _ := os.ReadFile(filepath.Join(proc, "mountinfo"))
			mounted = strings.Contains(string(info), number)
		}
		if mounted || opens(proc, node) {
			comm, _ := os.ReadFile(filepath.Join(proc, "comm"))
			names = append(names, fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(proc)))
		}
	}
	if names == nil {
		return "no process that can be seen from here"
	}
	return strings.Join(names, ", ")
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
