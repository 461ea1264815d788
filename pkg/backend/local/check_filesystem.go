package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A filesystem is looked through in a copy of its image, which shares all blocks:
// there its log can be replayed, and a pod may start meanwhile. That may cost the
// pool as much as the volume overwrites until the copy is gone. Where there is no
// such room, a volume that a driver serves is left alone: nobody could attach it
// meanwhile. Without a driver the image itself is looked through, locked, and nothing
// is replayed; so are snapshots always.

func (p *pool) checkFilesystems(ctx context.Context, snapshots bool, c *PoolCheck) error {
	if err := p.discardOldCopies(ctx); err != nil {
		return err
	}
	var seen int64
	if err := p.catchUp(ctx, &seen); err != nil {
		return err
	}
	for _, o := range p.inOrder() {
		if o.Format.Mode != volume.ModeFilesystem || o.ID.Kind() == volume.KindSnapshot && !snapshots {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("look through filesystems: %w", context.Cause(ctx))
		}
		fault, err := p.lookThrough(ctx, o, &seen)
		switch {
		case fault != "":
			if err != nil {
				fault = fmt.Sprintf("%s (and then: %v)", fault, err)
			}
		case errors.Is(err, volume.ErrInUse):
			c.InUse++
			continue
		case errors.Is(err, fs.ErrNotExist) && p.isGone(o):
			continue // deleted just now
		case errors.Is(err, volume.ErrNoSpace):
			c.note(string(o.ID), fmt.Sprintf("there is no room to look through it in a copy, in which its log could be replayed: %v", err), "free space in the pool and check again, or check while no driver runs")
			continue
		case errors.Is(err, volume.ErrPrecondition):
			c.note(string(o.ID), err.Error(), "nothing: the next pod that uses it replays the log; free space in the pool lets the next check do so in a copy")
			continue
		case err != nil:
			c.problem(string(o.ID), fmt.Sprintf("its filesystem cannot be looked through: %v", err), "look into the kernel's log")
			continue
		}
		c.Filesystems++
		if fault != "" {
			c.problem(string(o.ID), fmt.Sprintf("its %s is damaged: %s", o.Format.FSType, fault),
				"take a snapshot of it, repair a clone (ext4 is repaired when its pod starts, as far as that is safe; xfs: xfs_repair), and go on with the clone; or restore a snapshot")
		}
	}
	return nil
}

// isGone says whether an object was deleted.
func (p *pool) isGone(o object) bool {
	_, err := p.root.Lstat(o.dir)
	return errors.Is(err, fs.ErrNotExist)
}

// lookThrough looks through the filesystem of a volume or a snapshot. It is
// ErrInUse if it is attached, ErrNoSpace if there is no room for a copy and a driver
// serves it.
func (p *pool) lookThrough(ctx context.Context, o object, seen *int64) (fault string, err error) {
	img, err := p.openImage(o, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer img.Close()
	if err := p.lockIdle(o.ID, img); err != nil {
		return "", err
	}
	served, err := p.isServed()
	if err != nil {
		return "", err
	}
	private, err := p.privateCopy(ctx, o, img, seen)
	if errors.Is(err, volume.ErrNoSpace) && (!served || o.ID.Kind() == volume.KindSnapshot) {
		return filesystem.Verify(ctx, p.backend.cfg.Runner, fdPath(img), o.Format.FSType)
	}
	if err != nil {
		return "", err
	}
	// From here on a pod may start.
	err = img.Close()
	if err == nil {
		fault, err = p.verifyCopy(ctx, private.image, o.Format)
	}
	return fault, errors.Join(err, private.discard(ctx))
}

// verifyCopy replays the log only where there is something to replay: what does so
// may mend what it should find.
func (p *pool) verifyCopy(ctx context.Context, private *os.File, f volume.Format) (fault string, err error) {
	fault, err = filesystem.Verify(ctx, p.backend.cfg.Runner, fdPath(private), f.FSType)
	if !errors.Is(err, volume.ErrPrecondition) {
		return fault, err
	}
	if err := p.replay(ctx, private, f); err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return fmt.Sprintf("its log cannot be replayed: %v", err), nil
	}
	return filesystem.Verify(ctx, p.backend.cfg.Runner, fdPath(private), f.FSType)
}

// lockIdle takes the lock that an attachment has.
func (p *pool) lockIdle(id volume.ID, img *os.File) error {
	on, err := p.backend.loopsOn(img)
	if err != nil {
		return err
	}
	if len(on) > 0 {
		return fmt.Errorf("%w: %s is attached as /dev/loop%d", volume.ErrInUse, id, on[0].Index)
	}
	if err := unix.Flock(int(img.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: the image of %s is locked: %w", volume.ErrInUse, id, err)
	}
	return nil
}

// replay brings the log of the filesystem in a private copy to where the next
// mount of the volume would bring it.
func (p *pool) replay(ctx context.Context, private *os.File, f volume.Format) error {
	if f.FSType == volume.Ext4 {
		return filesystem.ReplayExt4(ctx, p.backend.cfg.Runner, fdPath(private))
	}
	d, err := loop.Attach(ctx, loop.Config{Backing: private, Tag: "holdfast-check", BlockSize: f.SectorSize})
	if err != nil {
		return err
	}
	defer d.Close()
	tree, err := mountUnseen(ctx, d, f.FSType, false)
	if err != nil {
		return fmt.Errorf("replay its log: %w", err)
	}
	return tree.Close()
}

// fdPath names an open file to a program.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
