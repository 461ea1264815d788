package local

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// attached takes a volume that was just attached, or found so, under guard, and
// bounds its dirty memory: the setting sticks to the index of a loop device, so
// whoever had the index before has left his. While the pool is frozen nothing more
// is attached that would only be frozen too.
func (g *guard) attached(o object, d *loop.Device) error {
	if o.Format.Mode != volume.ModeFilesystem {
		// Block volumes are never overcommitted.
		return d.SetDirtyLimit(0)
	}
	var limit volume.Bytes
	if g.pool.overpromised() {
		limit = dirtyBound
	}
	if err := d.SetDirtyLimit(limit); err != nil {
		return err
	}
	g.mu.Lock()
	g.addLocked(o, d.Index())
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default: // it wakes already
	}
	return nil
}

func (g *guard) addLocked(o object, index int) {
	if w := g.wards[o.ID]; w != nil {
		if w.busy {
			w.renewed, w.renewal = true, index
		} else {
			w.index, w.limitAt = index, time.Time{}
		}
		return
	}
	g.changes++
	g.wards[o.ID] = &ward{id: o.ID, fsType: o.Format.FSType, index: index}
}

// ids are the volumes under guard.
func (g *guard) ids() map[volume.ID]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[volume.ID]bool, len(g.wards))
	for id := range g.wards {
		out[id] = true
	}
	return out
}

// checkNotFrozen refuses what would wait for a filesystem that the guard has
// frozen.
func (g *guard) checkNotFrozen(id volume.ID, sentinel error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.frozen && g.wards[id] != nil {
		return fmt.Errorf("%w: pool %s is full and the filesystem of %s is frozen until there is space; delete snapshots or volumes, or enlarge the pool", sentinel, g.pool.name, id)
	}
	return nil
}

// checkRoom refuses to attach a filesystem volume while the pool's writers are
// stopped: its writers would hang and could not be killed.
func (g *guard) checkRoom(o object) error {
	if o.Format.Mode == volume.ModeFilesystem && g.isFrozen() {
		return fmt.Errorf("%w: pool %s is full and its filesystems are frozen until there is space; delete snapshots or volumes, or enlarge the pool", volume.ErrUnavailable, g.pool.name)
	}
	return nil
}

// lookAround finds the volumes of the pool that are attached, also those that an
// earlier driver has attached or frozen, and forgets those that are not any more. It
// is not done if volumes came and went all the time.
func (g *guard) lookAround(ctx context.Context) (done bool, err error) {
	for range 3 {
		if done, err = g.lookOnce(ctx); done || err != nil {
			break
		}
	}
	return done, err
}

func (g *guard) lookOnce(ctx context.Context) (done bool, err error) {
	g.mu.Lock()
	changes := g.changes
	g.mu.Unlock()
	loops, err := g.pool.backend.loops.List()
	if err != nil {
		return false, err
	}
	mounts, err := mount.List()
	if err != nil {
		return false, err
	}
	if err := g.pool.backend.cfg.Fault.At("guard/looked"); err != nil {
		return false, err
	}
	tags := map[string]loop.Seen{}
	for _, l := range loops {
		tags[l.Tag] = l
	}
	shown := map[uint64]bool{} // device numbers
	for _, m := range mounts {
		shown[unix.Mkdev(m.Major, m.Minor)] = true
	}
	objects := g.pool.filesystemVolumes()
	attached := map[volume.ID]bool{}
	mounted := map[volume.ID]bool{}
	g.mu.Lock()
	if g.changes != changes {
		g.mu.Unlock() // what was seen may be detached since, or attached
		return false, nil
	}
	for id, o := range objects {
		if l, ok := tags[tagOf(id)]; ok {
			attached[id], mounted[id] = true, shown[unix.Mkdev(l.Major, l.Minor)]
			if w := g.wards[id]; w == nil || w.index != l.Index {
				g.addLocked(o, l.Index)
			}
		}
	}
	var gone []*ward
	for id, w := range g.wards {
		// One that is frozen and open we hold, so it is there whatever was seen: the
		// device of a dead pool may show no tag. It is thawed before it is dropped.
		if w.busy || w.frozen && w.root != nil {
			continue
		}
		// Our view alone keeps a filesystem that others have unmounted.
		if !attached[id] || w.root != nil && !mounted[id] && !w.frozen {
			w.busy = true
			gone = append(gone, w)
		}
	}
	g.mu.Unlock()
	for _, w := range gone {
		g.begin(ctx, w, func() error { return g.drop(w) })
	}
	return true, g.adopt(ctx)
}

// drop forgets a ward that is busy for us, unless its volume was attached again
// meanwhile.
func (g *guard) drop(w *ward) error {
	var err error
	if w.root != nil {
		err = g.shut(w)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !w.renewed {
		delete(g.wards, w.id)
		g.changes++
	}
	return err
}

func (p *pool) filesystemVolumes() map[volume.ID]object {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[volume.ID]object{}
	for id, o := range p.objects {
		if id.Kind() == volume.KindVolume && o.Format.Mode == volume.ModeFilesystem {
			out[id] = *o
		}
	}
	return out
}

// letGo ends the guard of a volume that is about to be detached. One that was
// unmounted while it was frozen has no writers any more: it is thawed, or it would
// keep its device for ever. One that is still mounted stays as it is. d is nil if
// the device is gone already.
func (g *guard) letGo(ctx context.Context, id volume.ID, d *loop.Device) error {
	w, err := g.seize(ctx, id)
	if w == nil || err != nil {
		return err
	}
	defer g.unseize(w)
	if d != nil {
		if mounted, err := isMounted(d); mounted || err != nil {
			return err
		}
	}
	if w.frozen {
		if w.root == nil {
			err = g.open(ctx, w)
		}
		if err == nil && w.root != nil {
			err = g.thaw(w)
		}
		if err != nil {
			return err
		}
	}
	return g.drop(w)
}

func (g *guard) unseize(w *ward) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w.busy = false
	if w.renewed {
		w.index, w.limitAt, w.renewed = w.renewal, time.Time{}, false
	}
}

// seize waits until nobody works on a ward and takes it; nil if there is none.
func (g *guard) seize(ctx context.Context, id volume.ID) (*ward, error) {
	for {
		g.mu.Lock()
		w := g.wards[id]
		if w == nil || !w.busy {
			if w != nil {
				w.busy = true
			}
			g.mu.Unlock()
			return w, nil
		}
		g.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait until the filesystem of %s is frozen or thawed: %w", id, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}
