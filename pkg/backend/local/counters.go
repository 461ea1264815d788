package local

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// tally is what metrics count of one pool, from the start of the process; a pool
// that comes back goes on with the one that it had (pool.tally). Whoever does what
// is counted adds to it; nobody reads it but Stats. The zero value is ready.
type tally struct {
	freezes         histogram     // of a filesystem for a copy
	thawedLate      atomic.Uint64 // the deadline thawed it
	thawedForOthers atomic.Uint64 // found frozen and thawed, or thawed by another while it was copied
	trashEmptied    atomic.Uint64 // objects whose space came back
	refused         atomic.Uint64 // admissions, with volume.ErrNoSpace
	trimmed         atomic.Uint64 // bytes that were given back inside volumes
	guardFreezes    histogram     // of a filesystem because the pool was nearly full
}

// freezeBuckets are the bounds of histogram in seconds: from the shortest freeze
// that was measured to the default deadline.
var freezeBuckets = [...]float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// histogram counts durations.
type histogram struct {
	buckets [len(freezeBuckets)]atomic.Uint64 // each its own, not those below it
	count   atomic.Uint64
	sum     atomic.Uint64 // bits of a float64, seconds
}

func (h *histogram) observe(d time.Duration) {
	seconds := d.Seconds()
	for i, bound := range freezeBuckets {
		if seconds <= bound {
			h.buckets[i].Add(1)
			break
		}
	}
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+seconds)) {
			break
		}
	}
	h.count.Add(1)
}

func (h *histogram) read() backend.Histogram {
	out := backend.Histogram{Count: h.count.Load(), Sum: math.Float64frombits(h.sum.Load()), Buckets: map[float64]uint64{}}
	below := uint64(0)
	for i, bound := range freezeBuckets {
		below += h.buckets[i].Load()
		out.Buckets[bound] = below
	}
	// What was added between the two readings is in the buckets alone.
	out.Count = max(out.Count, below)
	return out
}

func (c *tally) read() backend.PoolCounters {
	return backend.PoolCounters{
		Freezes: c.freezes.read(), ThawedLate: c.thawedLate.Load(), ThawedForOthers: c.thawedForOthers.Load(),
		TrashEmptied: c.trashEmptied.Load(), Refused: c.refused.Load(), Trimmed: c.trimmed.Load(), GuardFreezes: c.guardFreezes.read(),
	}
}

func newTallies(slots []*slot) map[string]*tally {
	out := map[string]*tally{}
	for _, s := range slots {
		out[s.cfg.Name] = &tally{}
	}
	return out
}

// tally is the pool's. What is not served, but only inspected, has one of its own.
func (p *pool) tally() *tally {
	if t := p.backend.tallies[p.name]; t != nil {
		return t
	}
	return &tally{}
}

// countThaw counts a thaw for another party, whether the volume's pool is open or
// not.
func (b *Backend) countThaw(id volume.ID) {
	for _, s := range b.slots {
		if s.describe().ID == id.Pool() {
			b.tallies[s.cfg.Name].thawedForOthers.Add(1)
		}
	}
}
