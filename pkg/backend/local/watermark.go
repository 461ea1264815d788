package local

import (
	"fmt"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A pool that overcommits promises nothing more while it is nearly full: below the
// watermark nothing is created, copied, snapshotted or grown. What is there goes on.

// watermarkShare of the pool must be free: a tenth.
const watermarkShare = 10

// watermark is how much must be free for new promises: a tenth of the pool, or twice
// what the guard needs, whichever is more, and what block volumes may need. It is 0 while nothing is overcommitted:
// then the promises themselves keep the pool from running full.
func (p *pool) watermark(sp space) volume.Bytes {
	if !p.overcommitted() {
		return 0
	}
	_, blocks := p.guard.lastReserve()
	return p.margin(sp) + blocks
}

// margin is the watermark without what block volumes may need.
func (p *pool) margin(sp space) volume.Bytes {
	reserve, blocks := p.guard.lastReserve()
	return max(sp.Total/watermarkShare, 2*(reserve-blocks))
}

// belowWatermark says whether nothing more may be promised, and the watermark.
func (p *pool) belowWatermark(sp space) (volume.Bytes, bool) {
	mark := p.watermark(sp)
	return mark, sp.Cover < mark
}

// checkWatermark is volume.ErrNoSpace below the watermark.
func (p *pool) checkWatermark(sp space) error {
	if mark, below := p.belowWatermark(sp); below {
		return fmt.Errorf("%w: pool %s is overcommitted and nearly full: there is room for %s, and below %s nothing more is promised; delete volumes or snapshots, or enlarge the pool",
			volume.ErrNoSpace, p.name, sp.Cover, mark)
	}
	return nil
}

// noticeLevel tells when the watermark is crossed, and when it is left behind by
// a fiftieth of the pool.
func (g *guard) noticeLevel(sp space) {
	p := g.pool
	mark, below := p.belowWatermark(sp)
	switch {
	case below && !g.low:
		g.low = true
		g.askTrim()
		p.backend.notice(PromisesStopped, "pool %s is overcommitted and nearly full: there is room for %s of %s; below %s nothing more is promised, and before it is full its writers are frozen; delete volumes or snapshots, or enlarge the pool",
			p.name, sp.Cover, sp.Total, mark)
	case g.low && sp.Cover > mark+sp.Total/50:
		g.low = false
		p.backend.notice(PromisesAgain, "pool %s has room for %s again", p.name, sp.Cover)
	}
}
