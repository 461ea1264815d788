package bench

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/figures"
)

// three are median, 95th percentile and maximum in one cell.
func three(s figures.Samples) string {
	if len(s) == 0 {
		return "-"
	}
	return ms(s.Median()) + " / " + ms(s.Percentile(95)) + " / " + ms(s.Max())
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

// spread are the smallest, the middle and the largest of some numbers.
type spread struct{ low, middle, high float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (middle + v[len(v)/2-1]) / 2
	}
	return spread{v[0], middle, v[len(v)-1]}
}

// String is the middle with its range.
func (s spread) String() string { return fmt.Sprintf("%.2f (%.2f to %.2f)", s.middle, s.low, s.high) }

// section is a part of the page.
type section struct {
	figures.Page
	title   string
	failed  bool
	failure error // why, if it is known
}

// aimTime compares times, one caller at a time, with what we aim for: median and
// 95th percentile both.
func (s *section) aimTime(what string, want time.Duration, have figures.Samples) {
	p50, p95 := have.Median(), have.Percentile(95)
	s.Aim(what, "at most "+ms(want)+" ms", "p50 "+ms(p50)+", p95 "+ms(p95), p95 <= want)
}

// aimLongest compares a longest time with what we aim for.
func (s *section) aimLongest(what string, want time.Duration, have time.Duration) {
	s.Aim(what, "at most "+ms(want)+" ms", ms(have), have <= want)
}

// aimRatio compares the median of a ratio with the least we aim for.
func (s *section) aimRatio(what string, want float64, have spread) {
	s.Aim(what, fmt.Sprintf("at least %.2f", want), have.String(), have.middle >= want)
}

// page is the document.
type page struct {
	path     string
	quick    bool
	begin    time.Time
	sections []*section
	pending  []string // parts not run yet
}

// write writes what there is.
func (p *page) write() error {
	var out figures.Page
	p.header(&out)
	for _, s := range p.sections {
		out.AddAims(&s.Page)
	}
	p.summary(&out)
	for _, s := range p.sections {
		out.Write(s.Bytes())
		if !s.failed {
			continue
		}
		if s.failure == nil {
			s.failure = errors.New("it ended early; what the run printed says why")
		}
		out.Line("")
		out.Line("**This part failed, so what is missing above was not measured:**")
		out.Line("")
		out.Line("    %s", strings.ReplaceAll(strings.TrimSpace(s.failure.Error()), "\n", "\n    "))
	}
	if len(p.pending) > 0 {
		out.Line("")
		out.Line("**Not measured, as the run ended before: %s.**", strings.Join(p.pending, "; "))
	}
	return os.WriteFile(p.path, out.Bytes(), 0o644)
}

func (p *page) header(out *figures.Page) {
	out.Line("# Performance")
	out.Line("")
	out.Line("Written by `make bench`; every figure below is from one run on one machine. Compare within a run, not between")
	out.Line("machines. Times are in milliseconds unless said otherwise. Nothing here is asserted by a test.")
	if p.quick {
		out.Line("")
		out.Line("**A short try (`BENCH_QUICK=1`): too few samples to say anything.**")
	}
	out.Line("")
	out.Machine()
	out.Line("* pools: embedded pool images on that disk, each made for its part, unless a part says otherwise")
	out.Line("* the run took %s", time.Since(p.begin).Round(time.Minute))
}

// summary puts each aim beside its figure, and says plainly what was missed.
func (p *page) summary(out *figures.Page) {
	out.Line("")
	out.Line("## Aims")
	out.Line("")
	out.Line("An aim is for every machine, so this table says how this one does, not what is promised. Times are of one caller at a")
	out.Line("time, and met if the 95th percentile is; ratios are medians, with the smallest and the largest of the run.")
	out.WriteAims()
	out.Line("")
	out.Line("## What is weak")
	out.Line("")
	weak := out.Missed()
	out.Line("%d aims were missed in this run.", len(weak))
	for _, s := range p.sections {
		if s.failed {
			weak = append(weak, s.title+": not measured, as it failed")
		}
	}
	for i, w := range weak {
		if i == 0 {
			out.Line("")
		}
		out.Line("* %s", w)
	}
	out.Line("")
	out.Line("Copy-on-write is not free on any pool: the first overwrite of each block after a snapshot goes to new space. The data path")
	out.Line("below shows it as the fall from 0 snapshots to 1, for the plain file as for the volume; the ratio between the two does not.")
}
