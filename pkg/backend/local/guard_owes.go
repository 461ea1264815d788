package local

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// appetite asks the ledger what the volumes that can be frozen may still need, and
// what all block volumes may, with those that are being made.
func (p *pool) appetite(frozen map[volume.ID]bool) (appetite, error) {
	out := appetite{frozen: map[volume.ID]volume.Bytes{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	sources := p.sourcesLocked()
	for id, o := range p.objects {
		if id.Kind() != volume.KindVolume || o.Format.Mode == volume.ModeBlock || !frozen[id] {
			continue
		}
		need, err := p.chargeOf(*o, sources[id])
		if err != nil {
			return appetite{}, err
		}
		out.frozen[id] = need
	}
	var err error
	out.blocks, err = p.blocksOweLocked("")
	return out, err
}

// overcommitted says whether the pool may be promised more than once.
func (p *pool) overcommitted() bool { return p.backend.cfg.Overcommit > 1 }

// overpromised says whether the pool may owe more than it covers: it overcommits, or
// did, and what was promised then still is.
func (p *pool) overpromised() bool {
	if p.overcommitted() {
		return true
	}
	p.guard.mu.Lock()
	defer p.guard.mu.Unlock()
	return p.guard.over
}

// askOwed looks now and then whether a pool that overcommits nothing owes more than
// it covers all the same.
func (g *guard) askOwed(ctx context.Context, now time.Time) {
	if g.pool.overcommitted() || now.Sub(g.overAt) < lookAgain {
		return
	}
	g.overAt = now
	over, err := g.pool.owesMore()
	if over && err == nil {
		// Charges are upper bounds, and what was freed counts only from now on.
		if err = errors.Join(g.pool.store.commit(), g.pool.measureAll(ctx)); err == nil {
			over, err = g.pool.owesMore()
		}
	}
	if err != nil {
		g.tell(err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = over
}

// owesMore says whether the charges of all volumes are more than is covered. What is
// only promised is not counted: it may be counted with its volume already.
func (p *pool) owesMore() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var owed volume.Bytes
	for id, o := range p.objects {
		if id.Kind() != volume.KindVolume {
			continue
		}
		charge, err := p.chargeOf(*o, false)
		if err != nil {
			return false, err
		}
		owed += charge
	}
	sp, err := p.store.space()
	return owed > sp.Cover, err
}
