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

// quiesced runs fn, which copies the source's image, at an instant when all that
// was written to the source is in the image: an attached block device has been
// synced, a mounted filesystem is frozen.
func (p *pool) quiesced(ctx context.Context, src object, consistency volume.Consistency, fn func() error) error {
	if src.ID.Kind() == volume.KindSnapshot {
		return fn() // nobody writes to a snapshot
	}
	d, err := p.backend.openByTag(src.ID)
	if err != nil {
		return err
	}
	if d == nil {
		return fn()
	}
	defer d.Close()
	if src.Format.Mode == volume.ModeBlock {
		// Writes that were closed but not synced are in the device's cache.
		if err := d.Sync(); err != nil {
			return err
		}
		return fn()
	}
	if consistency == volume.ConsistencyCrash {
		return fn()
	}
	root, err := mountedRoot(ctx, d, src.Format.FSType)
	if err != nil {
		return err
	}
	defer root.Close()
	return p.frozen(ctx, src, root, fn)
}

// frozen runs fn while the filesystem at root is frozen.
//
// The order keeps the freeze short and never forgotten: write out what is dirty
// inside, then in the pool, so that the freeze has little to flush and the copy
// has little to commit; write down the intent, so that whoever starts next, or
// the watchdog, thaws; freeze; copy; thaw. A deadline, which counts from the intent
// as the watchdog's does, thaws if the copy hangs, and the watchdog if this process
// does. A copy that was not made on a filesystem frozen
// throughout is not used.
func (p *pool) frozen(ctx context.Context, src object, root *os.File, fn func() error) error {
	b, id := p.backend, src.ID
	if err := p.guard.checkNotFrozen(id, volume.ErrNoSpace); err != nil {
		return err
	}
	if err := b.thawLeftOf(ctx, id); err != nil { // on a frozen one the sync would do nothing
		return err
	}
	if err := filesystem.Sync(root); err != nil {
		if dead := filesystem.Alive(root); errors.Is(dead, volume.ErrPrecondition) {
			err = dead // which says what to do
		}
		return fmt.Errorf("sync before freezing: %w", err)
	}
	if err := p.store.commit(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("freeze %s: %w", id, context.Cause(ctx))
	}
	held, err := b.intents.write(ctx, id, src.Format.FSType)
	if err != nil {
		return err
	}
	thawed, err := p.freezeAndRun(held, root, fn)
	return errors.Join(err, held.end(thawed))
}

// freezeAndRun is what happens while the intent is on the disk. thawed is false
// if we froze the filesystem and could not thaw it.
func (p *pool) freezeAndRun(held *heldIntent, root *os.File, fn func() error) (thawed bool, err error) {
	b, id := p.backend, held.id
	limit := thawAt(held.since.Add(b.cfg.FreezeTimeout), root)
	defer limit.stop()
	if err := b.cfg.Fault.At("freeze/intent"); err != nil {
		return true, err
	}
	began := time.Now()
	if err := filesystem.Freeze(root); err != nil {
		return true, fmt.Errorf("freeze %s: %w", id, err)
	}
	if limit.frozen() {
		err = b.cfg.Fault.At("freeze/frozen")
		if err == nil {
			err = fn()
		}
	}
	late := limit.stop()
	frozen, terr := filesystem.ThawIfFrozen(root)
	p.tally().freezes.observe(time.Since(began))
	if terr != nil {
		return false, errors.Join(err, fmt.Errorf("thaw %s: %w; it is tried again every %s, its writers hang until then", id, terr, retryInterval))
	}
	if ferr := b.cfg.Fault.At("freeze/thawed"); err == nil {
		err = ferr
	}
	if late {
		p.tally().thawedLate.Add(1)
		return true, fmt.Errorf("%w: to freeze and copy %s took longer than %s, its filesystem was thawed and the copy is not used; try again", volume.ErrUnavailable, id, b.cfg.FreezeTimeout)
	}
	// Either sign alone could miss something: the mark, a thaw by hand (fsfreeze -u);
	// the thaw that found nothing to thaw, one after which somebody froze again.
	broken, berr := held.broken()
	if broken || !frozen {
		p.tally().thawedForOthers.Add(1)
		return true, fmt.Errorf("%w: the freeze watchdog, or somebody with fsfreeze, thawed %s while it was copied; the copy is not used; try again", volume.ErrUnavailable, id)
	}
	return true, errors.Join(err, berr)
}

// mountedRoot opens the root of the filesystem on a loop device: through a mount
// that this namespace shows, else through a mount of our own. The latter is how
// to reach a filesystem that only another namespace has mounted.
//
// fsType is "" if the caller does not know it; then the superblock is asked, and
// only if it must be: that of a filesystem in use may change while it is read.
func mountedRoot(ctx context.Context, d *loop.Device, fsType volume.FSType) (*os.File, error) {
	info, err := d.Info()
	if err != nil {
		return nil, err
	}
	mounts, err := mount.List()
	if err != nil {
		return nil, err
	}
	for _, m := range mount.OfDevice(mounts, info.Major, info.Minor) {
		if m.Root != "/" {
			continue
		}
		if f, err := os.Open(m.Path); err == nil {
			if onDevice(f, info) {
				return f, nil
			}
			f.Close()
		}
	}
	if fsType == "" {
		sb, err := filesystem.ProbeInUse(d.File())
		if err != nil {
			return nil, err
		}
		fsType = sb.Type
	}
	cfg := mount.Config{FSType: string(fsType), Source: d.Path()}
	if fsType == volume.XFS {
		cfg.Options = []mount.Option{{Key: "nouuid"}}
	}
	tree, err := mount.New(ctx, cfg)
	if errors.Is(err, volume.ErrInUse) { // it is mounted read-only elsewhere
		cfg.ReadOnly = true
		tree, err = mount.New(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("reach the filesystem on %s: %w", d.Path(), err)
	}
	root, err := tree.Root()
	return root, errors.Join(err, tree.Close())
}

// onDevice guards against a mount that covers the one that was looked for.
func onDevice(f *os.File, dev loop.Info) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return st.Dev == unix.Mkdev(dev.Major, dev.Minor)
}
