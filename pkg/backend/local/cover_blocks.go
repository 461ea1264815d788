package local

import (
	"fmt"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// coverBlocks is volume.ErrNoSpace if what block volumes may still need is not
// covered, with all that is being admitted now. Block volumes are never
// overcommitted: they have no filesystem that could be frozen. The guard keeps for
// them what was admitted here.
func (p *pool) coverBlocks(format volume.Format) error {
	if !p.overcommitted() || format.Mode != volume.ModeBlock {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var owed volume.Bytes
	for _, pr := range p.promised {
		owed += pr.size
	}
	charges, err := p.chargesOfBlocksLocked()
	if err != nil {
		return err
	}
	owed += charges
	sp, err := p.store.space()
	if err != nil {
		return err
	}
	if owed > sp.Cover {
		return fmt.Errorf("%w: raw block volumes are not overcommitted, for they cannot be frozen: pool %s has room for %s, and with this one they may need %s; delete volumes or snapshots, or enlarge the pool, or use a filesystem volume",
			volume.ErrNoSpace, p.name, sp.Cover, owed)
	}
	return nil
}

// promisedToBlocks says that what was promised to a new volume is for a block volume:
// the guard keeps it until the volume is there, which for an import may be hours.
func (p *pool) promisedToBlocks(r record) {
	if r.Format.Mode != volume.ModeBlock {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if pr, ok := p.promised[r.ID]; ok {
		pr.blocks = true
		p.promised[r.ID] = pr
	}
}

// blocksOweLocked is what block volumes may still need, with those that are being
// made, but without the one that asks.
func (p *pool) blocksOweLocked(except volume.ID) (volume.Bytes, error) {
	owed, err := p.chargesOfBlocksLocked()
	for id, pr := range p.promised {
		if pr.blocks && id != except {
			owed += pr.size
		}
	}
	return owed, err
}

func (p *pool) chargesOfBlocksLocked() (owed volume.Bytes, err error) {
	sources := p.sourcesLocked()
	for id, o := range p.objects {
		if id.Kind() != volume.KindVolume || o.Format.Mode != volume.ModeBlock {
			continue
		}
		charge, err := p.chargeOf(*o, sources[id])
		if err != nil {
			return 0, err
		}
		owed += charge
	}
	return owed, nil
}
