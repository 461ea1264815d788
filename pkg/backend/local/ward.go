package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ward is an attached filesystem volume that the guard looks after. The fields
// below busy belong to the goroutine that has set it, or to the holder of guard.mu
// while it is not set.
type ward struct {
	id     volume.ID
	fsType volume.FSType
	index  int // of its loop device

	busy bool
	// renewed, of guard.mu: the volume was attached while somebody was busy with the
	// ward, perhaps to forget it.
	renewed bool
	renewal int // the new index

	// root is a view of the mounted filesystem that no unmount waits for. It is open
	// while the pool is nearly full, so that nothing needs to be looked for when it
	// is time to freeze. While it is open, the volume has a mark.
	root    *os.File
	frozen  bool         // by the guard
	since   time.Time    // of frozen; zero if an earlier driver did it
	checked time.Time    // when it was still frozen
	limit   volume.Bytes // on dirty memory, as it was set
	limitAt time.Time    // zero: not yet
}

// plan is what the guard wants for a ward now.
type plan struct {
	freeze  bool
	near    bool
	breathe bool // thaw for an instant
	limit   volume.Bytes
}

// checkFrozen is how often the guard makes sure that what it froze still is:
// somebody may have used fsfreeze, and a snapshot that took too long thaws.
const checkFrozen = 200 * time.Millisecond

// dirtyAgain is how often the bound on dirty memory is written anew: what the
// kernel makes of it follows the memory that is free.
const dirtyAgain = 30 * time.Second

// done says whether there is nothing to do for the ward.
func (w *ward) done(p plan, now time.Time) bool {
	switch {
	case p.freeze:
		return w.frozen && !p.breathe && now.Sub(w.checked) < checkFrozen
	case w.frozen:
		return false
	case p.near != (w.root != nil):
		return false
	}
	if w.limit != p.limit || w.limitAt.IsZero() {
		return false
	}
	return p.limit == 0 || now.Sub(w.limitAt) < dirtyAgain // no bound needs no care
}

// tend lets each ward be brought to what it should be. It waits for none.
func (g *guard) tend(ctx context.Context, cover, reserve volume.Bytes, breathe bool) {
	now := time.Now()
	over := g.pool.overpromised()
	g.mu.Lock()
	defer g.mu.Unlock()
	var limit volume.Bytes
	if over {
		limit = dirtyLimit(cover, reserve, len(g.wards), g.pool.backend.memory)
	}
	for id, w := range g.wards {
		// One that needs nothing more can do no harm.
		harmless := g.owes.frozen[id] == 0
		p := plan{freeze: g.frozen && !harmless, near: !harmless && (g.frozen || isNear(cover, reserve)), breathe: breathe, limit: limit}
		if w.busy || w.done(p, now) {
			continue
		}
		w.busy = true
		g.begin(ctx, w, func() error { return g.work(ctx, w, p) })
	}
}

// begin lets something be done with a ward that is busy for us, and waits for
// nothing: any of it may hang in the kernel, where the last close of a filesystem is
// an unmount.
func (g *guard) begin(ctx context.Context, w *ward, do func() error) {
	go func() {
		err := do()
		g.unseize(w)
		if err != nil && ctx.Err() == nil {
			g.pool.backend.guardTrouble(g.pool.name, err)
		}
	}()
}

// work does for one ward what the plan says.
func (g *guard) work(ctx context.Context, w *ward, p plan) error {
	if (p.near || w.frozen) && w.root == nil {
		// Its mark is there before it may be frozen.
		if err := g.open(ctx, w); err != nil {
			return err
		}
	}
	switch {
	case p.freeze && w.root != nil:
		if p.breathe && w.frozen {
			if err := g.thaw(w); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
		return g.freeze(w)
	case w.frozen && w.root != nil:
		if err := g.thaw(w); err != nil {
			return err
		}
	}
	if !p.near && w.root != nil {
		if err := g.shut(w); err != nil {
			return err
		}
	}
	return g.setDirtyLimit(w, p.limit)
}

// open marks the volume and opens its filesystem. One that is mounted nowhere is
// left alone: it may be under repair, and nobody writes to it.
func (g *guard) open(ctx context.Context, w *ward) error {
	d, err := g.pool.backend.openByTag(w.id)
	if err != nil || d == nil {
		return err
	}
	defer d.Close()
	root, err := privateRoot(d)
	if root == nil && err == nil && w.frozen {
		// Unmounted while it was frozen, it is still there for as long as it is
		// frozen, and can be mounted again.
		root, err = mountedRoot(ctx, d, w.fsType)
	}
	if err != nil || root == nil {
		return err
	}
	if err := g.pool.backend.marks.write(w.id, w.fsType); err != nil {
		return errors.Join(err, root.Close())
	}
	w.root = root
	return nil
}

// shut undoes open.
func (g *guard) shut(w *ward) error {
	err := errors.Join(w.root.Close(), g.pool.backend.marks.remove(w.id))
	w.root = nil
	return err
}

// freeze freezes a ward that is not frozen yet, or is not any more.
func (g *guard) freeze(w *ward) error {
	if err := g.pool.backend.cfg.Fault.At("guard/freeze"); err != nil {
		return err
	}
	m := g.pool.backend.marks
	var unsaid error
	if !w.frozen {
		// Before it is frozen: nobody else may thaw it from that instant. If it cannot
		// be said, to freeze is safer all the same.
		unsaid = m.say(w.id, markFrozen)
	}
	err := filesystem.Freeze(w.root)
	switch {
	case err == nil:
		if !w.frozen {
			w.since = time.Now()
		}
		w.frozen = true
	case errors.Is(err, volume.ErrBusy) && w.frozen:
		// As it should be.
	case errors.Is(err, volume.ErrBusy):
		// By a snapshot that is being taken: nobody writes meanwhile, and when it is
		// thawed it is frozen at the next look.
		return m.say(w.id, markNear)
	default:
		return errors.Join(fmt.Errorf("freeze %s: %w", w.id, err), m.say(w.id, markNear))
	}
	w.checked = time.Now()
	if unsaid != nil {
		return unsaid
	}
	return g.pool.backend.cfg.Fault.At("guard/frozen")
}

func (g *guard) thaw(w *ward) error {
	if err := filesystem.Thaw(w.root); err != nil {
		return fmt.Errorf("thaw %s: %w; its writers hang until: fsfreeze -u MOUNTPOINT", w.id, err)
	}
	w.frozen = false
	if !w.since.IsZero() { // an earlier driver froze it, nobody knows when
		g.pool.tally().guardFreezes.observe(time.Since(w.since))
	}
	if err := g.pool.backend.marks.say(w.id, markNear); err != nil {
		return err
	}
	return g.pool.backend.cfg.Fault.At("guard/thawed")
}

func (g *guard) setDirtyLimit(w *ward, limit volume.Bytes) error {
	d, err := g.pool.backend.openByTag(w.id)
	if err != nil || d == nil {
		return err
	}
	defer d.Close()
	if err := d.SetDirtyLimit(limit); err != nil {
		return err
	}
	w.limit, w.limitAt = limit, time.Now()
	return nil
}

// privateRoot opens the filesystem on a loop device through a view of one of its
// mounts, so that no unmount finds it busy. It is nil if this namespace does not
// show it mounted for writing.
func privateRoot(d *loop.Device) (*os.File, error) {
	info, err := d.Info()
	if err != nil {
		return nil, err
	}
	mounts, err := mount.List()
	if err != nil {
		return nil, err
	}
	for _, m := range mount.OfDevice(mounts, info.Major, info.Minor) {
		if isReadOnlyFilesystem(m) {
			return nil, nil
		}
		root, err := viewOf(m.Path, info)
		if root != nil || err != nil {
			return root, err
		}
	}
	return nil, nil
}

// isMounted says whether this namespace shows the filesystem on a loop device.
func isMounted(d *loop.Device) (bool, error) {
	info, err := d.Info()
	if err != nil {
		return false, err
	}
	mounts, err := mount.List()
	return len(mount.OfDevice(mounts, info.Major, info.Minor)) > 0, err
}

func isReadOnlyFilesystem(m mount.Info) bool {
	for _, o := range m.SuperOptions {
		if o == "ro" {
			return true
		}
	}
	return false
}

// viewOf opens a directory through a mount of its own; nil if the path does not
// lead to a directory of the device any more.
func viewOf(path string, info loop.Info) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil // unmounted just now, or hidden
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if !onDevice(f, info) {
		return nil, nil
	}
	tree, err := mount.Bind(f, false)
	if err != nil {
		return nil, err
	}
	root, err := tree.Root()
	return root, errors.Join(err, tree.Close())
}
