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
	"slices"
	"strings"
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

// AddAims adds the aims of another page.
func (p *Page) AddAims(of *Page) { p.aims = append(p.aims, of.aims...) }

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
