package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// On btrfs a few live blocks keep the whole extent allocated that they were written
// in. When the pool is short and a volume pins much that nobody can read any more,
// the pieces of its image that do so are rewritten, while it is used
// (docs/adr/0015).
//
// Rewriting needs the new place before the old one is free. What is not in place is
// charged to the volume anyway, as if its pod rewrote it; what is in place is
// promised beforehand.

const (
	// rewriteInterval is how often a pool that is short is looked through.
	rewriteInterval = 10 * time.Minute
	// shortShare: a pool is short if less than a quarter of it is free.
	shortShare = 4
	// It pays if at least a quarter of what the image holds is dead, and this much.
	deadShare = 4
	leastDead = 64 * volume.MiB
	// rewritePiece is rewritten at once: writers wait that long.
	rewritePiece = 1 << 20
	// rewriteRest is the pause after a piece, and at least twice the time it took.
	rewriteRest = 20 * time.Millisecond
	// mostExtents bounds the memory of the account. An image with more of them has
	// small ones, which pin little.
	mostExtents = 200_000
)

// pins is what of an image is worth to be rewritten.
type pins struct {
	held, dead volume.Bytes // in the extents that it refers to
	pieces     []int64      // offsets of pieces that refer to an extent which is mostly dead
}

// rewriter is a store on which live blocks pin dead ones.
type rewriter interface {
	pins(img *os.File) (pins, error)
}

// pins walks the extents of an image. What others refer to counts as dead: only for
// an image without relatives the answer is of use.
func (s *btrfsStore) pins(img *os.File) (pins, error) {
	type extent struct{ bytes, live int64 }
	extents := map[int64]extent{}
	errMany := errors.New("too many extents")
	err := btrfs.FileExtents(img, func(e btrfs.Extent) error {
		x := extents[e.DiskStart]
		extents[e.DiskStart] = extent{e.DiskBytes, x.live + e.Bytes}
		if len(extents) > mostExtents {
			return errMany
		}
		return nil
	})
	if errors.Is(err, errMany) {
		return pins{}, nil
	}
	if err != nil {
		return pins{}, err
	}
	var out pins
	for _, x := range extents {
		out.held += volume.Bytes(x.bytes)
		out.dead += volume.Bytes(max(0, x.bytes-x.live))
	}
	last := int64(-1)
	err = btrfs.FileExtents(img, func(e btrfs.Extent) error {
		if x := extents[e.DiskStart]; 2*x.live > x.bytes {
			return nil
		}
		for at := e.FileOffset / rewritePiece * rewritePiece; at < e.FileOffset+e.Bytes; at += rewritePiece {
			if at > last {
				out.pieces, last = append(out.pieces, at), at
			}
		}
		return nil
	})
	return out, err
}

// runRewrite rewrites what pins dead space in the slot's pool until ctx ends.
func (s *slot) runRewrite(ctx context.Context) {
	tick := time.NewTicker(rewriteInterval)
	defer tick.Stop()
	var told trouble
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p, err := s.get()
		if err != nil {
			continue
		}
		if err := p.rewritePinned(ctx); err != nil && ctx.Err() == nil && told.isNews(err, time.Now()) {
			s.backend.notice(CleanupFailed, "pool %s: rewrite what pins dead space: %v; will try again", p.name, err)
		}
	}
}

// rewritePinned frees dead space of volumes that share nothing, one after the
// other, while the pool is short.
func (p *pool) rewritePinned(ctx context.Context) error {
	r, ok := p.store.(rewriter)
	if !ok {
		return nil
	}
	var errs []error
	for _, id := range p.withoutRelatives() {
		sp, err := p.store.space()
		if err != nil || ctx.Err() != nil || sp.Free > sp.Total/shortShare {
			return errors.Join(append(errs, err)...)
		}
		if err := p.rewriteVolume(ctx, r, id); err != nil && !errors.Is(err, volume.ErrNoSpace) {
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// withoutRelatives are the volumes that were copied and are not known to share
// anything now. A volume that shares would only be copied, and free nothing.
func (p *pool) withoutRelatives() []volume.ID {
	copied := p.copiedVolumes()
	p.mu.Lock()
	defer p.mu.Unlock()
	related := map[volume.ID]bool{}
	for id, o := range p.objects {
		for _, other := range []volume.ID{o.SnapshotOf, o.Source.Snapshot, o.Source.Volume} {
			if _, there := p.objects[other]; there {
				related[id], related[other] = true, true
			}
		}
	}
	var out []volume.ID
	for _, id := range copied {
		if !related[id] {
			out = append(out, id)
		}
	}
	return out
}

// rewriteVolume rewrites the pieces of a volume that pin mostly dead extents, if it
// pays. It is volume.ErrNoSpace if the pool has no room for that. It ends early when
// the volume is copied or deleted.
func (p *pool) rewriteVolume(ctx context.Context, r rewriter, id volume.ID) error {
	o, ok := p.lookup(id)
	if !ok || o.damage != nil {
		return nil
	}
	img, err := p.openImage(o, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer img.Close()
	found, err := r.pins(img)
	if err != nil || found.dead < leastDead || found.dead < found.held/deadShare {
		return err
	}
	key := "rewrite." + id // beside what is promised to the volume itself
	if err := p.tryAdmit(key, volume.Bytes(len(found.pieces))*rewritePiece, ""); err != nil {
		return err
	}
	defer p.release(key)
	for _, at := range found.pieces {
		if now, ok := p.lookup(id); !ok || now.epoch != o.epoch {
			break
		}
		start := time.Now()
		if err := btrfs.Rewrite(img, at, rewritePiece); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(rewriteRest, 2*time.Since(start))):
		}
	}
	if err := p.store.commit(); err != nil {
		return err
	}
	return p.measure(id)
}
