package figures

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine adds the date, the tree and the machine of a run, as a list that more
// lines may follow.
func (p *Page) Machine() {
	p.Line("* date: %s, tree %s", time.Now().UTC().Format("2006-01-02"), revision())
	p.Line("* machine: %s, %d cores, %s of memory, Linux %s", cpuModel(), runtime.NumCPU(), memory(), firstLine("/proc/sys/kernel/osrelease"))
	p.Line("* disk: %s", disk())
}

// firstLine is the first line of a file of the kernel's.
func firstLine(path string) string {
	out, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

func cpuModel() string {
	out, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return "unknown processor"
}

func memory() string {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "unknown size"
	}
	return fmt.Sprintf("%.0f GiB", float64(info.Totalram)*float64(info.Unit)/(1<<30))
}

// disk is what temporary directories lie on, and so the pools of a run.
func disk() string {
	var st unix.Stat_t
	if err := unix.Stat(os.TempDir(), &st); err != nil {
		return "unknown"
	}
	fsType := "an unknown filesystem"
	if out, err := exec.Command("df", "--output=fstype", os.TempDir()).Output(); err == nil {
		fsType = strings.TrimSpace(strings.TrimPrefix(string(out), "Type"))
	}
	link, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
	if err != nil {
		return fsType
	}
	// A partition has its disk above it.
	if _, err := os.Stat(filepath.Join(link, "queue")); err != nil {
		link = filepath.Dir(link)
	}
	name := filepath.Base(link)
	kind := map[string]string{"0": "solid state", "1": "spinning"}[firstLine(filepath.Join(link, "queue/rotational"))]
	if strings.HasPrefix(name, "vd") {
		kind = "virtual (virtio), which does not say what it is"
	}
	return fmt.Sprintf("%s, %s, with %s", name, kind, fsType)
}

// revision is the commit of the tree, and whether more than the pages of figures
// differs from it: they are what a measurement writes.
func revision() string {
	commit, err := exec.Command("git", "describe", "--tags", "--always").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(commit))
	changed, err := exec.Command("git", "status", "--porcelain", "--", ":/", ":(top,exclude)docs/reference").Output()
	if err != nil || len(changed) > 0 {
		name += "-dirty"
	}
	return name
}
