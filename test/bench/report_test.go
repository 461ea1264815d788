package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// samples are the durations of one kind of call.
type samples []time.Duration

func (s samples) percentile(p int) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

// report is the page that is being written.
type report struct {
	bytes.Buffer
	aims [][]string // rows of the table of aims
}

// aim compares what was measured, one caller at a time, with what we aim for.
func (r *report) aim(what string, want time.Duration, have samples) {
	p50, p95 := have.percentile(50), have.percentile(95)
	verdict := "met"
	switch {
	case p50 > want:
		verdict = "missed by " + ms(p50-want)
	case p95 > want:
		verdict = "met by the median, missed by the p95 by " + ms(p95-want)
	}
	r.aims = append(r.aims, []string{what, ms(want), ms(p50), ms(p95), verdict})
}

func (r *report) writeAims() {
	r.line("")
	r.line("## Aims")
	r.line("")
	r.line("One caller at a time. An aim is for every machine, so this table says how this one does, not what is promised. How much of a")
	r.line("snapshot of a mounted volume is the freeze, which the kernel does (FIFREEZE), shows in the stall of the writer; the rest is")
	r.line("syncing before it and committing after it. With many callers at once they share the machine's cores and the pool's commits.")
	r.table("call", "aim", "p50", "p95", "")
	for _, row := range r.aims {
		r.row(row...)
	}
}

func (r *report) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// table starts a table; its rows follow by row.
func (r *report) table(columns ...string) {
	r.line("")
	r.row(columns...)
	r.row(slices.Repeat([]string{"---"}, len(columns))...)
}

func (r *report) row(cells ...string) { r.line("| %s |", strings.Join(cells, " | ")) }

func (r *report) header() {
	r.line("# Performance")
	r.line("")
	r.line("Written by `make bench`; every figure below is from one run on one machine. Compare within a run, not between")
	r.line("machines. Times are in milliseconds. Nothing here is asserted by a test.")
	r.line("")
	r.line("* date: %s", time.Now().UTC().Format("2006-01-02"))
	r.line("* machine: %s, %d cores, Linux %s", cpuModel(), runtime.NumCPU(), kernel())
	r.line("* pool: an embedded btrfs pool image on the host's %s", hostFilesystem())
}

func kernel() string {
	out, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
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

func hostFilesystem() string {
	out, err := exec.Command("stat", "--file-system", "--format=%T", os.TempDir()).Output()
	if err != nil {
		return "filesystem"
	}
	return strings.TrimSpace(string(out))
}
