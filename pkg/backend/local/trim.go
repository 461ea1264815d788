package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// What is deleted inside a volume keeps its place in the pool until the filesystem
// says that it is free. The driver lets each mounted filesystem say so: on a
// schedule, and when a pool that overcommits is nearly full or frozen, for a frozen
// filesystem can say it too.
//
// Only where something is overcommitted: a volume that was promised its whole size
// may need every block of it again, so its pool gains nothing (see keepsBlocks).

// DefaultTrimInterval is how often what is deleted inside volumes is given back.
const DefaultTrimInterval = 24 * time.Hour

const (
	// trimFirst bounds how long after a start the first round is: drivers that are
	// restarted daily must come to it.
	trimFirst = time.Hour
	// trimRest is how long after a round the next one is at the soonest.
	trimRest = time.Minute
	// trimPiece is how much of a volume is trimmed at once.
	trimPiece = 8 * volume.GiB
)

// runTrim trims the volumes of the slot's pool until ctx ends. The times are jittered:
// pools of many nodes may share a disk array.
func (s *slot) runTrim(ctx context.Context) {
	every := s.backend.cfg.TrimInterval
	if every <= 0 || s.backend.cfg.Overcommit <= 1 {
		return
	}
	var told trouble
	next, last := time.Now().Add(rand.N(min(every, trimFirst))), time.Time{}
	for {
		var asked <-chan struct{}
		p, err := s.get()
		if err == nil {
			asked = p.guard.trim
		}
		select {
		case <-ctx.Done():
			return
		case <-asked:
			if soonest := last.Add(trimRest); time.Now().Before(soonest) {
				next = earlier(next, soonest)
				continue
			}
		case <-time.After(min(time.Until(next), retryInterval)): // the pool may come or go
			if err != nil || time.Now().Before(next) {
				continue
			}
			next = time.Now().Add(every - every/10 + rand.N(every/5))
		}
		err = p.trimAll(ctx)
		last = time.Now()
		if err != nil && ctx.Err() == nil && told.isNews(err, last) {
			s.backend.notice(CleanupFailed, "pool %s: give back what is deleted inside volumes: %v; will try again", p.name, err)
		}
	}
}

// earlier is when to do what was asked for too soon: not now, and not only when it
// would be done anyway.
func earlier(next, soonest time.Time) time.Time {
	if soonest.Before(next) {
		return soonest
	}
	return next
}

// askTrim asks for a round of trimming soon.
func (g *guard) askTrim() {
	select {
	case g.trim <- struct{}{}:
	default: // it was asked for already
	}
}

// trimAll trims every mounted filesystem of the pool, one after the other. One that
// cannot be trimmed does not hold up the others.
func (p *pool) trimAll(ctx context.Context) error {
	if !p.overcommitted() {
		return nil
	}
	volumes := p.filesystemVolumes()
	ids := make([]volume.ID, 0, len(volumes))
	for id := range volumes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var errs []error
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		if err := p.trimVolume(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("trim %s: %w", id, err))
		}
	}
	// What was freed can be used only from the next commit on.
	return errors.Join(append(errs, p.store.commit())...)
}

// trimVolume trims a volume that is mounted for writing; any other is success. A
// device that was attached while nothing was overcommitted refuses until it is
// attached again; that is success too.
func (p *pool) trimVolume(ctx context.Context, id volume.ID) error {
	d, err := p.backend.openByTag(id)
	if err != nil || d == nil {
		return err
	}
	defer d.Close()
	root, err := privateRoot(d)
	if err != nil || root == nil {
		return err
	}
	defer root.Close()
	size, err := d.Size()
	if err != nil {
		return err
	}
	// What was deleted is free for ext4 only when its journal has it on the disk.
	if err := filesystem.Sync(root); err != nil {
		return err
	}
	p.forgetMeasured(id)
	for at := volume.Bytes(0); at < size && ctx.Err() == nil; at += trimPiece {
		n, err := filesystem.Trim(root, at, min(at+trimPiece, size), p.trimLeast())
		if errors.Is(err, volume.ErrPrecondition) {
			break
		}
		if err != nil {
			return err
		}
		p.tally().trimmed.Add(uint64(n))
	}
	return p.measure(id)
}

// trimLeast is the shortest piece of free space that is given back. On btrfs an
// extent stays allocated while any block of it is in use, so small pieces free
// nothing and cost new space when they are written again (measured: 347 MiB of
// pieces of 64 KiB unmapped, none freed). XFS frees each.
func (p *pool) trimLeast() volume.Bytes {
	if fsType, _ := p.store.identity(); fsType == FilesystemXFS {
		return 64 * volume.KiB
	}
	return volume.MiB
}

// forgetMeasured charges a copied volume with its whole size until it is measured
// again: it may lose blocks that it has in place. One that was not copied is always
// measured.
func (p *pool) forgetMeasured(id volume.ID) {
	if o, ok := p.lookup(id); ok && o.copied {
		p.forgetInPlace(id)
	}
}
