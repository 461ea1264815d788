package bench

import (
	"bytes"
	"fmt"
	"os"
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

func (s samples) max() time.Duration { return s.percentile(100) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/1000) }

// three are median, 95th percentile and maximum in one cell.
func (s samples) three() string {
	if len(s) == 0 {
		return "-"
	}
	return ms(s.percentile(50)) + " / " + ms(s.percentile(95)) + " / " + ms(s.max())
}

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

// aim is a figure beside what we aim for.
type aim struct {
	what, want, have, verdict string
	met                       bool
}

// report is a section of the page.
type report struct {
	bytes.Buffer
	title   string
	aims    []aim
	failed  bool
	failure error // why, if it is known
}

func (r *report) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// table starts a table; its rows follow by row.
func (r *report) table(columns ...string) {
	r.line("")
	r.row(columns...)
	r.row(slices.Repeat([]string{"---"}, len(columns))...)
}

func (r *report) row(cells ...string) { r.line("| %s |", strings.Join(cells, " | ")) }

// aimTime compares times, one caller at a time, with what we aim for.
func (r *report) aimTime(what string, want time.Duration, have samples) {
	p50, p95 := have.percentile(50), have.percentile(95)
	a := aim{what: what, want: "at most " + ms(want) + " ms", have: "p50 " + ms(p50) + ", p95 " + ms(p95), verdict: "met", met: p95 <= want}
	switch {
	case p50 > want:
		a.verdict = fmt.Sprintf("missed: %.1f times the aim", float64(p50)/float64(want))
	case p95 > want:
		a.verdict = "met by the median, missed by the p95"
	}
	r.aims = append(r.aims, a)
}

// aimLongest compares a longest time with what we aim for.
func (r *report) aimLongest(what string, want time.Duration, have time.Duration) {
	a := aim{what: what, want: "at most " + ms(want) + " ms", have: ms(have), verdict: "met", met: have <= want}
	if !a.met {
		a.verdict = fmt.Sprintf("missed: %.1f times the aim", float64(have)/float64(want))
	}
	r.aims = append(r.aims, a)
}

// aimRatio compares a ratio with the least we aim for.
func (r *report) aimRatio(what string, want float64, have spread) {
	a := aim{
		what: what, want: fmt.Sprintf("at least %.2f", want), verdict: "met", met: have.middle >= want,
		have: fmt.Sprintf("%.2f (%.2f to %.2f)", have.middle, have.low, have.high),
	}
	if !a.met {
		a.verdict = "missed"
		if have.high >= want {
			a.verdict = "missed by the median, within the spread"
		}
	}
	r.aims = append(r.aims, a)
}

// page is the document.
type page struct {
	path     string
	quick    bool
	begin    time.Time
	sections []*report
	pending  []string // parts not run yet
}

// write writes what there is.
func (p *page) write() error {
	var r report
	p.header(&r)
	var aims []aim
	for _, s := range p.sections {
		aims = append(aims, s.aims...)
	}
	p.summary(&r, aims)
	for _, s := range p.sections {
		r.Write(s.Bytes())
		if s.failed {
			r.line("")
			r.line("**This part failed, so what is missing above was not measured.**")
			if s.failure != nil {
				r.line("")
				r.line("    %s", strings.ReplaceAll(s.failure.Error(), "\n", "\n    "))
			}
		}
	}
	if len(p.pending) > 0 {
		r.line("")
		r.line("**Not measured, as the run ended before: %s.**", strings.Join(p.pending, "; "))
	}
	return os.WriteFile(p.path, r.Bytes(), 0o644)
}

func (p *page) header(r *report) {
	r.line("# Performance")
	r.line("")
	r.line("Written by `make bench`; every figure below is from one run on one machine. Compare within a run, not between")
	r.line("machines. Times are in milliseconds unless said otherwise. Nothing here is asserted by a test.")
	if p.quick {
		r.line("")
		r.line("**A short try (`BENCH_QUICK=1`): too few samples to say anything.**")
	}
	r.line("")
	r.line("* date: %s; the run took %s", p.begin.UTC().Format("2006-01-02"), time.Since(p.begin).Round(time.Minute))
	r.line("* tree: %s", revision())
	for _, l := range machine() {
		r.line("* %s", l)
	}
	r.line("* pools: embedded pool images on that disk, each made for its part, unless a part says otherwise")
}

// summary puts each aim beside its figure, and says plainly what was missed.
func (p *page) summary(r *report, aims []aim) {
	r.line("")
	r.line("## Aims")
	r.line("")
	r.line("An aim is for every machine, so this table says how this one does, not what is promised. Times are of one caller at a")
	r.line("time; ratios are medians, with the smallest and the largest of the run.")
	r.table("figure", "aim", "measured", "")
	var missed []aim
	for _, a := range aims {
		r.row(a.what, a.want, a.have, a.verdict)
		if !a.met {
			missed = append(missed, a)
		}
	}
	r.line("")
	r.line("## What is weak")
	r.line("")
	if len(missed) == 0 {
		r.line("No aim was missed in this run.")
	} else {
		r.line("%d of %d aims were missed or met only in part:", len(missed), len(aims))
		r.line("")
		for _, a := range missed {
			r.line("* %s: %s, aim %s (%s)", a.what, a.have, a.want, a.verdict)
		}
	}
	r.line("")
	r.line("Copy-on-write is not free on any pool: the first overwrite of each block after a snapshot goes to new space. The data path")
	r.line("below shows it as the fall from 0 snapshots to 1, for the plain file as for the volume; the ratio between the two does not.")
}
