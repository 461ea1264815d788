package bench

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/plot"
)

// dataPathAim is how much of a plain file's throughput a volume should have.
const dataPathAim = 0.95

// dataPathStates are the numbers of snapshots at which the data path is measured.
var dataPathStates = []int{0, 1, 5, 50}

// series is what one load did to one leg, with one number of snapshots.
type series struct{ outcomes []outcome }

// dataPath measures volumes against plain files on the same pool, before and after
// snapshots.
func dataPath(r *run, pool string) {
	box, d := r.box(pool, orQuick(r, 24*volume.GiB, 8*volume.GiB))
	p := &pathBench{
		run: r, pool: pool, dir: poolDir(box), size: orQuick(r, 512*volume.MiB, 128*volume.MiB), rounds: orQuick(r, 3, 2), measured: map[string]*series{},
		loads: []load{
			{"4k random read", "randread", 4096, 16, orQuick(r, 3*time.Second, time.Second)},
			{"4k random write", "randwrite", 4096, 16, orQuick(r, 3*time.Second, time.Second)},
			{"1M sequential read", "read", 1 << 20, 4, orQuick(r, 2*time.Second, time.Second)},
			{"1M sequential write", "write", 1 << 20, 4, orQuick(r, 2*time.Second, time.Second)},
		},
	}
	for _, n := range orQuick(r, dataPathStates, []int{0, 1}) {
		p.begin(d, n)
		p.state(n)
		p.end()
	}
	p.tell()
	p.plots()
	d.Stop()
}

// begin makes legs that no load has fragmented: on xfs each snapshot of those that
// the states before have left would take many seconds.
func (p *pathBench) begin(d *harness.Driver, snapshots int) {
	p.t.Helper()
	p.taken, p.names, p.legs = 0, nil, nil
	add := func(name string, l leg, err error) {
		p.must(err)
		p.names, p.legs = append(p.names, name), append(p.legs, l)
	}
	claim := orchestrator.Claim{Name: fmt.Sprint("volume-", snapshots), Size: 2*p.size + volume.GiB, FSType: volume.Ext4}
	l, err := newVolumeLeg(p.ctx, d, claim, p.size)
	add("volume", l, err)
	if p.wanted("block", snapshots) {
		l, err := newVolumeLeg(p.ctx, d, orchestrator.Claim{Name: "block", Size: 2 * p.size, Block: true}, p.size)
		add("block", l, err)
	}
	plain, err := newPlainLeg(p.dir, p.pool, p.size)
	add("plain", plain, err)
	for _, l := range p.legs {
		p.must(fill(l))
	}
	p.must(settle(p.dir))
}

// end deletes the legs with their snapshots.
func (p *pathBench) end() {
	p.t.Helper()
	for _, l := range p.legs {
		for n := range p.taken {
			p.must(l.dropSnapshot(p.ctx, fmt.Sprint(n+1)))
		}
		p.must(l.remove(p.ctx))
	}
	p.must(settle(p.dir))
}

type pathBench struct {
	*run
	pool     string
	dir      string       // of the pool
	size     volume.Bytes // of a region
	rounds   int
	loads    []load
	names    []string // of the legs
	legs     []leg
	taken    int // snapshots of each leg
	states   []int
	measured map[string]*series
}

func key(load, leg string, snapshots int) string {
	return fmt.Sprintf("%s/%s/%d", load, leg, snapshots)
}

// state measures all loads with n snapshots of each leg. The newest is always
// fresh: each round takes it anew, so that each round of writes finds all data
// shared.
func (p *pathBench) state(n int) {
	p.states = append(p.states, n)
	for p.taken < n {
		p.taken++
		p.eachLeg(func(l leg) error {
			// Some life between two snapshots: 4 MiB in scattered blocks.
			if err := fioSome(p.ctx, load{mode: "randwrite", blockSize: 4096, depth: 16}, l.region(true), 4*volume.MiB); err != nil {
				return err
			}
			return l.snapshot(p.ctx, fmt.Sprint(p.taken))
		})
	}
	for round := range p.rounds {
		if n > 0 {
			newest := fmt.Sprint(n)
			p.eachLeg(func(l leg) error {
				if err := l.dropSnapshot(p.ctx, newest); err != nil {
					return err
				}
				return l.snapshot(p.ctx, newest)
			})
			p.must(settle(p.dir))
		}
		for _, ld := range p.loads {
			for i := range p.legs {
				if round%2 == 1 {
					i = len(p.legs) - 1 - i // so that no leg is always the first
				}
				out, err := fio(p.ctx, ld, p.legs[i].region(ld.depth == 16))
				p.must(err)
				k := key(ld.name, p.names[i], n)
				if p.measured[k] == nil {
					p.measured[k] = &series{}
				}
				p.measured[k].outcomes = append(p.measured[k].outcomes, out)
			}
		}
	}
}

// wanted: a block volume lacks of an ext4 volume only the ext4, so it is measured
// before the first snapshot alone.
func (p *pathBench) wanted(leg string, snapshots int) bool { return leg != "block" || snapshots == 0 }

// eachLeg does something to each leg.
func (p *pathBench) eachLeg(do func(leg) error) {
	p.t.Helper()
	for _, l := range p.legs {
		p.must(do(l))
	}
}

// values are a figure of each round.
func (p *pathBench) values(load, leg string, snapshots int, of func(outcome) float64) []float64 {
	s := p.measured[key(load, leg, snapshots)]
	if s == nil {
		return nil
	}
	var out []float64
	for _, o := range s.outcomes {
		out = append(out, of(o))
	}
	return out
}

func rate(o outcome) float64 { return o.perSecond }

// ratio is the leg's rate by the plain file's in the same round.
func (p *pathBench) ratio(load, leg string, snapshots int) spread {
	a, b := p.values(load, leg, snapshots, rate), p.values(load, "plain", snapshots, rate)
	var out []float64
	for i := range a {
		out = append(out, a[i]/b[i])
	}
	return spreadOf(out)
}

// tell writes the table.
func (p *pathBench) tell() {
	l := p.loads
	p.Line("")
	p.Line("fio with libaio and direct I/O: %s and %s at depth %d for %s, %s and %s at depth %d for %s, each in a region of its own of",
		l[0].name, l[1].name, l[0].depth, l[0].runtime, l[2].name, l[3].name, l[2].depth, l[2].runtime)
	p.Line("%s that was filled before. Volume: files in ext4 in a volume, staged and published. Block: the device of a raw block", p.size)
	p.Line("volume. Plain: files on the pool itself%s, with as many snapshots. %d rounds; in each round every load goes to one after", map[string]string{"btrfs": ", NOCOW, in a subvolume"}[p.pool], p.rounds)
	p.Line("the other, in alternating order, and the newest snapshot is taken anew before, so all data is shared when the round starts.")
	p.Line("Between two snapshots 4 MiB are overwritten in random 4 KiB blocks. A ratio is of the two rates in the same round: median")
	p.Line("(smallest to largest). Each number of snapshots has volumes and files of its own.")
	p.Table("load", "snapshots", "volume", "plain", "volume / plain", "block / plain", "p99 volume", "p99 plain")
	for _, ld := range p.loads {
		for _, n := range p.states {
			name := func(leg string) string {
				if ld.blockSize == 4096 {
					return fmt.Sprintf("%.0f IOPS", spreadOf(p.values(ld.name, leg, n, rate)).middle)
				}
				return fmt.Sprintf("%.0f MB/s", spreadOf(p.values(ld.name, leg, n, func(o outcome) float64 { return o.bytes / 1e6 })).middle)
			}
			latency := func(leg string) string {
				return ms(time.Duration(spreadOf(p.values(ld.name, leg, n, func(o outcome) float64 { return float64(o.p99) })).middle))
			}
			block := "-"
			if p.wanted("block", n) {
				s := p.ratio(ld.name, "block", n)
				block = s.String()
				p.aimRatio(fmt.Sprintf("block volume / plain file, %s, pool on %s", ld.name, p.pool), dataPathAim, s)
			}
			s := p.ratio(ld.name, "volume", n)
			p.aimRatio(fmt.Sprintf("volume / plain file, %s, snapshots: %d, pool on %s", ld.name, n, p.pool), dataPathAim, s)
			p.Row(ld.name, fmt.Sprint(n), name("volume"), name("plain"), s.String(), block, latency("volume"), latency("plain"))
		}
	}
}

func (p *pathBench) plots() {
	var names []string
	for _, n := range p.states {
		names = append(names, fmt.Sprint(n))
	}
	x := plot.Axis{Label: "snapshots", Names: names}
	ratios := plot.Chart{
		Title: "Volume / plain file, pool on " + p.pool, X: x, Y: plot.Axis{Label: "ratio of the rates", To: 1.1},
		Levels: []plot.Level{{Name: fmt.Sprintf("aim %.2f", dataPathAim), Y: dataPathAim}},
	}
	rates := plot.Chart{Title: "4k at random, pool on " + p.pool, X: x, Y: plot.Axis{Label: "IOPS"}}
	for i, ld := range p.loads {
		// Beside each other, so that ranges can be told apart.
		shift := (float64(i) - float64(len(p.loads)-1)/2) * 0.08
		line := plot.Line{Name: ld.name, Dots: true}
		for at, n := range p.states {
			s := p.ratio(ld.name, "volume", n)
			line.Points = append(line.Points, plot.Point{X: float64(at) + shift, Y: s.middle, Low: s.low, High: s.high})
		}
		ratios.Lines = append(ratios.Lines, line)
		if ld.blockSize != 4096 {
			continue
		}
		for _, leg := range []string{"volume", "plain"} {
			line := plot.Line{Name: ld.name + ", " + leg, Dots: true}
			for at, n := range p.states {
				s := spreadOf(p.values(ld.name, leg, n, rate))
				line.Points = append(line.Points, plot.Point{X: float64(at) + shift + map[bool]float64{true: 0.03}[leg == "plain"], Y: s.middle, Low: s.low, High: s.high})
			}
			rates.Lines = append(rates.Lines, line)
		}
	}
	p.draw("datapath-ratio-"+p.pool, "Throughput of a volume by that of a plain file, for each load, with 0 to 50 snapshots", ratios)
	p.draw("datapath-iops-"+p.pool, "Random reads and writes per second of a volume and of a plain file, with 0 to 50 snapshots", rates)
	worst := math.Inf(1)
	for _, l := range ratios.Lines {
		for _, pt := range l.Points {
			worst = min(worst, pt.Y)
		}
	}
	fall := slices.Max(p.states)
	p.Line("")
	p.Line("The lowest median ratio is %.2f. With %d snapshots, random writes have %.2f of their rate without a snapshot in the volume, and", worst, fall, p.fall("volume", fall))
	p.Line("%.2f in the plain file: that is what copy-on-write costs on this pool while blocks are overwritten for the first time.", p.fall("plain", fall))
}

// fall is the rate of random writes with n snapshots by that without.
func (p *pathBench) fall(leg string, n int) float64 {
	return spreadOf(p.values("4k random write", leg, n, rate)).middle / spreadOf(p.values("4k random write", leg, 0, rate)).middle
}
