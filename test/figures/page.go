// Package figures is what the programs that measure share: durations as
// percentiles, and a page in Markdown with tables, aims beside figures, and the
// machine that the figures are from.
//
// It promises to write what it was given and nothing else: it measures nothing,
// and rounds only for reading. Whether a missed aim is an error is for the caller
// to say.
package figures

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

// Page is a page that is being written. Its zero value is empty.
type Page struct {
	bytes.Buffer
	aims []aim
}

// aim is a row of the table of aims.
type aim struct {
	what, want, have string
	met              bool
}

// Line adds a line.
func (p *Page) Line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// Table starts a table; its rows follow by Row.
func (p *Page) Table(columns ...string) {
	p.Line("")
	p.Row(columns...)
	p.Row(slices.Repeat([]string{"---"}, len(columns))...)
}

// Row adds a row to the table that was started last.
func (p *Page) Row(cells ...string) { p.Line("| %s |", strings.Join(cells, " | ")) }

// Aim notes what was measured beside what we aim for, for WriteAims.
func (p *Page) Aim(what, want, have string, met bool) {
	p.aims = append(p.aims, aim{what, want, have, met})
}

// WriteAims adds the table of all aims.
func (p *Page) WriteAims() {
	p.Table("what", "aim", "measured", "")
	for _, a := range p.aims {
		verdict := "met"
		if !a.met {
			verdict = "missed"
		}
		p.Row(a.what, a.want, a.have, verdict)
	}
}

// Missed are the aims that were not met, one a line.
func (p *Page) Missed() []string {
	var out []string
	for _, a := range p.aims {
		if !a.met {
			out = append(out, fmt.Sprintf("%s: aim %s, measured %s", a.what, a.want, a.have))
		}
	}
	return out
}

// Machine adds the date and the machine of a run, as a list that more lines may
// follow.
func (p *Page) Machine() {
	p.Line("* date: %s", time.Now().UTC().Format("2006-01-02"))
	p.Line("* machine: %s, %d cores, Linux %s", cpuModel(), runtime.NumCPU(), kernel())
	p.Line("* host: %s", hostFilesystem())
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
		return "unknown filesystem"
	}
	return strings.TrimSpace(string(out))
}
