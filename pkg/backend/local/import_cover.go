package local

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// An import writes to the pool where the guard stops nobody: what it fills is no
// volume yet, and cannot be frozen. On a pool that overcommits it looks again and
// again whether what others need is still there, and ends by itself if it is not. The
// guard keeps what a block volume that is being filled may still need.

// importCovered is ErrNoSpace if a pool that overcommits would come below its
// watermark by what the import of a volume is about to write. One that does not has
// promised it. What block volumes may need is asked anew, for the guard does not know
// it while no filesystem is mounted.
func (p *pool) importCovered(id volume.ID, content volume.Bytes) error {
	if !p.overcommitted() {
		return nil
	}
	if p.guard.isFrozen() {
		return fmt.Errorf("%w: pool %s is full and its filesystems are frozen until there is space; delete volumes or snapshots, or enlarge the pool, and import again", volume.ErrNoSpace, p.name)
	}
	p.mu.Lock()
	blocks, err := p.blocksOweLocked(id)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	sp, err := p.store.space()
	if err != nil {
		return err
	}
	if mark := p.margin(sp) + blocks; sp.Cover < content+mark {
		return fmt.Errorf("%w: pool %s is overcommitted and has room for %s; the import has %s to write, and %s must stay for the volumes that are there; delete volumes or snapshots, or enlarge the pool, and import again",
			volume.ErrNoSpace, p.name, sp.Cover, content, mark)
	}
	return nil
}

// spend lowers what is promised to the volume by what its image has taken, so that
// nothing is reckoned twice while it is being filled.
func (w *importing) spend(img unix.Stat_t) {
	left := max(0, w.record.Size-w.pool.store.dataIn(volume.Bytes(img.Blocks)*statBlock))
	w.pool.mu.Lock()
	defer w.pool.mu.Unlock()
	if pr, ok := w.pool.promised[w.record.ID]; ok && left < pr.size {
		pr.size = left
		w.pool.promised[w.record.ID] = pr
	}
}
