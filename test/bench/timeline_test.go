package bench

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/mariadb"
	"github.com/holdfast-csi/holdfast/test/plot"
)

// tellDatabase says what is measured.
func (r *run) tellDatabase(pool string, load mariadb.Load, bulk string) {
	r.Line("")
	r.Line("MariaDB on an xfs volume of 2 GiB on a %s pool, commits durable; sysbench oltp_read_write with %d threads on %d tables of %d rows,", pool, load.Threads, load.Tables, load.Rows)
	r.Line("and beside it a loader that inserts %s in a transaction of their own. The volume grows twice online, then it is snapshotted;", bulk)
	r.Line("first under a load that comes at a rate, then under one that goes as fast as it can. Transactions per second in windows of 10 s, a new one")
	r.Line("each second, those that an event falls into counted as after it, and compared with the median of the windows in which nothing happens.")
}

// tell writes what became of the throughput.
func (w *watch) tell() {
	before := spreadOf(windows(w.within(w.phases[0].from, w.phases[0].to)))
	w.table(before.middle)
	w.afterSnapshot(before.middle)
	w.plotTimeline(before.middle)
}

func (w *watch) table(base float64) {
	w.Table("", "calls took", "windows, median", "worst window", "of the median at rest", "worst second", "latency p95, median of the seconds")
	for i, p := range w.phases {
		seconds := w.within(p.from, p.to)
		s := spreadOf(windows(seconds))
		if i > 0 {
			// A window that the event falls into counts as well.
			s = spreadOf(windows(w.within(p.from.Add(time.Second-window), p.to)))
		}
		var each, latency []float64
		for _, second := range seconds {
			each, latency = append(each, second.Transactions), append(latency, second.P95.Seconds()*1000)
		}
		took := "-"
		if p.took > 0 {
			took = ms(p.took)
		}
		w.Row(p.name, took, fmt.Sprintf("%.0f", s.middle), fmt.Sprintf("%.0f", s.low), percent(s.low/base),
			fmt.Sprintf("%.0f", spreadOf(each).low), fmt.Sprintf("%.1f", spreadOf(latency).middle))
		if i > 0 {
			w.Aim("database on "+w.pool+" "+w.name+", worst 10 s "+p.name, fmt.Sprintf("dip of at most %.0f %%", 100*dipAim), "dip of "+percent(1-s.low/base), s.low >= base*(1-dipAim))
		}
	}
}

// afterSnapshot tells window by window what copy-on-write costs.
func (w *watch) afterSnapshot(base float64) {
	p := w.phases[len(w.phases)-1]
	var parts []string
	for from := p.from; !from.Add(window).After(p.to); from = from.Add(window) {
		parts = append(parts, percent(mean(w.within(from, from.Add(window)))/base))
	}
	w.Line("")
	w.Line("After the snapshot the first overwrite of each block is a copy. The windows of 10 s that follow it, one after the other, had")
	w.Line("%s of the median at rest.", strings.Join(parts, ", "))
}

func percent(part float64) string { return fmt.Sprintf("%.1f %%", 100*part) }

func (w *watch) plotTimeline(base float64) {
	second := func(t time.Time) float64 { return t.Sub(w.begin).Seconds() }
	each, sum := plot.Line{Name: "each second", Faint: true}, plot.Line{Name: "last 10 s"}
	all := w.within(w.begin, w.phases[len(w.phases)-1].to)
	for _, s := range all {
		each.Points = append(each.Points, plot.Point{X: second(s.At), Y: s.Transactions})
	}
	const n = int(window / time.Second)
	for i, mean := range windows(all) {
		sum.Points = append(sum.Points, plot.Point{X: second(all[i+n-1].At), Y: mean})
	}
	chart := plot.Chart{
		Title: "MariaDB under sysbench " + w.name + ", xfs volume, pool on " + w.pool,
		X:     plot.Axis{Label: "seconds", To: second(w.phases[len(w.phases)-1].to)}, Y: plot.Axis{Label: "transactions per second"},
		Lines:  []plot.Line{each, sum},
		Levels: []plot.Level{{Name: fmt.Sprintf("%.0f %% below the median at rest", 100*dipAim), Y: base * (1 - dipAim)}},
	}
	for _, p := range w.phases[1:] {
		chart.Marks = append(chart.Marks, plot.Mark{Name: strings.TrimPrefix(strings.TrimPrefix(p.name, "after "), "the "), X: second(p.from)})
	}
	w.draw(w.plot, "Transactions per second of MariaDB "+w.name+" over time, with marks at two growths of its volume and a snapshot", chart)
}
