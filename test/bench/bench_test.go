package bench

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/plot"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// pools are the filesystems that a pool may be on, the default first.
var pools = []string{"btrfs", "xfs"}

// partLimit is more than any part may take, so that one that hangs leaves time for
// the others.
const partLimit = 12 * time.Minute

// part is a section of the page. It has a pool of its own, so that one which
// fails takes nothing from the others.
type part struct {
	title string
	run   func(*run)
}

// parts are in the order of the page.
func parts() []part {
	var out []part
	// The longest part, so on the default alone.
	out = append(out, onPools("A database while its volume grows and is snapshotted", database)[0])
	out = append(out, onPools("Copies against extents", copiesAgainstExtents)...)
	out = append(out, onPools("Copies against size", copiesAgainstSize)...)
	out = append(out, onPools("Calls", calls)...)
	out = append(out, onPools("Online growth", growth)...)
	out = append(out, onPools("Data path", dataPath)...)
	return out
}

func onPools(title string, section func(*run, string)) []part {
	var out []part
	for _, p := range pools {
		out = append(out, part{title + ", pool on " + p, func(r *run) { section(r, p) }})
	}
	return out
}

// run is a part that is being measured.
type run struct {
	*section
	t     *testing.T
	ctx   context.Context
	quick bool // little of everything: to see that it works
	page  *page
	err   error // that ended it
}

// must ends the part if err is not nil; the page then has the error.
func (r *run) must(err error) {
	r.t.Helper()
	if err != nil {
		r.err = err
		r.t.Fatal(err)
	}
}

// orQuick is full, or quick in a short run.
func orQuick[T any](r *run, full, quick T) T {
	if r.quick {
		return quick
	}
	return full
}

// box is a machine with a pool image on a filesystem, and its driver.
func (r *run) box(pool string, size volume.Bytes) (*harness.Box, *harness.Driver) {
	r.t.Helper()
	box := harness.NewBox(r.t, size)
	if pool != "btrfs" {
		box.Flags = append(box.Flags, "--pool-filesystem="+pool)
	}
	d, err := box.TryStart("")
	r.must(err)
	return box, d
}

// draw writes a plot beside the page and shows it there. alt says what it shows.
func (r *run) draw(name, alt string, chart plot.Chart) {
	r.t.Helper()
	dir := filepath.Join(filepath.Dir(r.page.path), "plots")
	r.must(os.MkdirAll(dir, 0o755))
	r.must(os.WriteFile(filepath.Join(dir, name+".svg"), chart.SVG(), 0o644))
	r.Line("")
	r.Line("![%s](plots/%s.svg)", alt, name)
}

// removePlots removes the plots of an earlier run: what this one does not draw is
// not in its page.
func removePlots(t *testing.T, page string) {
	t.Helper()
	for _, kind := range []string{"database", "datapath", "copies"} {
		old, err := filepath.Glob(filepath.Join(filepath.Dir(page), "plots", kind+"-*.svg"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range old {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestBenchmarks measures and writes the page.
func TestBenchmarks(t *testing.T) {
	path := os.Getenv("HOLDFAST_BENCH")
	if path == "" {
		t.Skip("benchmarks: HOLDFAST_BENCH names no file to write; run make bench")
	}
	roottest.Require(t)
	quick := os.Getenv("HOLDFAST_BENCH_QUICK") != ""
	all := parts()
	if only := os.Getenv("HOLDFAST_BENCH_ONLY"); only != "" {
		wanted, err := regexp.Compile(only)
		if err != nil {
			t.Fatalf("HOLDFAST_BENCH_ONLY: %v", err)
		}
		all = slices.DeleteFunc(all, func(p part) bool { return !wanted.MatchString(p.title) })
	}
	begin := time.Now()
	out := &page{path: path, quick: quick, begin: begin}
	if len(all) == len(parts()) {
		removePlots(t, path)
	}
	for _, p := range all {
		out.pending = append(out.pending, p.title)
	}
	for _, p := range all {
		part := &section{title: p.title}
		out.sections = append(out.sections, part)
		part.Line("")
		part.Line("## %s", p.title)
		start := time.Now()
		ok := t.Run(p.title, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), partLimit)
			defer cancel()
			r := &run{section: part, t: t, ctx: ctx, quick: quick, page: out}
			defer func() { part.failure = r.err }()
			p.run(r)
		})
		part.failed = !ok
		out.pending = out.pending[1:]
		t.Logf("%s: %s", p.title, time.Since(start).Round(time.Second))
		// What was measured stays, whatever becomes of the next part.
		if err := out.write(); err != nil {
			t.Fatal(err)
		}
	}
}
