package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A filesystem is looked through in a copy of its image, which shares all blocks:
// there its log can be replayed, and a pod may start meanwhile. That may cost the
// pool as much as the volume overwrites until the copy is gone. Where there is no
// such room, the image itself is looked through, locked against attachment, and
// nothing is replayed.

// checkPrefix starts the names of copies in the staging directory, which the next
// start of a driver empties.
const checkPrefix = "check-"

func (p *pool) checkFilesystems(ctx context.Context, snapshots bool, c *PoolCheck) error {
	if err := p.discardOldCopies(); err != nil {
		return err
	}
	if err := p.measureAll(ctx); err != nil {
		return err
	}
	for _, o := range p.inOrder() {
		if o.Format.Mode != volume.ModeFilesystem || o.ID.Kind() == volume.KindSnapshot && !snapshots {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("look through filesystems: %w", context.Cause(ctx))
		}
		fault, err := p.lookThrough(ctx, o)
		switch {
		case errors.Is(err, volume.ErrInUse):
			c.InUse++
			continue
		case errors.Is(err, fs.ErrNotExist):
			continue // deleted just now
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

// lookThrough looks through the filesystem of a volume or a snapshot. It is
// ErrInUse if it is attached.
func (p *pool) lookThrough(ctx context.Context, o object) (fault string, err error) {
	img, err := p.openImage(o, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer img.Close()
	if err := p.lockIdle(o.ID, img); err != nil {
		return "", err
	}
	roomy, err := p.hasRoomForCopy(o)
	if err != nil {
		return "", err
	}
	if !roomy {
		return filesystem.Verify(ctx, p.backend.cfg.Runner, fdPath(img), o.Format.FSType)
	}
	private, discard, err := p.privateCopy(ctx, img)
	if err != nil {
		return "", err
	}
	// From here on a pod may start.
	err = img.Close()
	if err == nil {
		fault, err = p.verifyCopy(ctx, private, o.Format.FSType)
	}
	return fault, errors.Join(err, discard())
}

// verifyCopy replays the log only where there is something to replay: what does so
// may mend what it should find.
func (p *pool) verifyCopy(ctx context.Context, private *os.File, t volume.FSType) (fault string, err error) {
	fault, err = filesystem.Verify(ctx, p.backend.cfg.Runner, fdPath(private), t)
	if !errors.Is(err, volume.ErrPrecondition) {
		return fault, err
	}
	if err := p.replay(ctx, private, t); err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return fmt.Sprintf("its log cannot be replayed: %v", err), nil
	}
	return filesystem.Verify(ctx, p.backend.cfg.Runner, fdPath(private), t)
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

// hasRoomForCopy says whether the pool can do without as much as the volume may
// overwrite while there is a copy, beside all that it has promised.
func (p *pool) hasRoomForCopy(o object) (bool, error) {
	u, err := p.usageOf(o.dir)
	if err != nil {
		return false, err
	}
	room, err := p.room()
	const spare = 64 * volume.MiB // for what the replay writes
	return room >= u.Mapped+spare, err
}

// privateCopy copies an image into the staging directory, sharing all blocks. The
// lock that it holds says that it is in use.
func (p *pool) privateCopy(ctx context.Context, img *os.File) (private *os.File, discard func() error, err error) {
	name := fmt.Sprintf("%s/%s%d", stagingDir, checkPrefix, os.Getpid())
	if err := p.discard(name); err != nil {
		return nil, nil, err
	}
	if err := p.root.Mkdir(name, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make %s: %w", name, err)
	}
	dir, err := p.openObject(name)
	if err == nil {
		private, err = p.store.createImage(dir)
		err = errors.Join(err, dir.Close())
	}
	if err == nil {
		err = unix.Flock(int(private.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = unix.IoctlFileClone(int(private.Fd()), int(img.Fd()))
	}
	discard = func() error {
		if private != nil {
			private.Close() // nobody will read it again
		}
		return p.discardCopy(ctx, name)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("copy the image: %w", err), discard())
	}
	return private, discard, nil
}

// discardCopy removes a copy and returns when nothing is shared with it any more.
func (p *pool) discardCopy(ctx context.Context, name string) error {
	dir, err := p.openObject(name)
	if err != nil {
		return err
	}
	ticket, err := p.store.removeData(dir)
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("remove the data of %s: %w", name, err)
	}
	if ticket != 0 {
		err = p.store.waitFreed(ctx, []uint64{ticket})
	}
	return errors.Join(err, p.removeAll(name))
}

// discardOldCopies removes the copies of checks that were killed.
func (p *pool) discardOldCopies() error {
	entries, err := fs.ReadDir(p.root.FS(), stagingDir)
	if err != nil {
		return fmt.Errorf("list %s: %w", stagingDir, err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), checkPrefix) {
			continue
		}
		f, err := openAt(p.dir, stagingDir+"/"+e.Name()+"/"+dataDir+"/"+imageFile, unix.O_RDONLY)
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			f.Close()
		}
		if err != nil {
			continue // it is in use, or just being made or removed
		}
		if err := p.discard(stagingDir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// replay brings the log of the filesystem in a private copy to where the next
// mount of the volume would bring it.
func (p *pool) replay(ctx context.Context, private *os.File, t volume.FSType) error {
	if t == volume.Ext4 {
		return filesystem.ReplayExt4(ctx, p.backend.cfg.Runner, fdPath(private))
	}
	d, err := loop.Attach(ctx, loop.Config{Backing: private, Tag: "holdfast-check", BlockSize: 4096})
	if err != nil {
		return err
	}
	defer d.Close()
	tree, err := mount.New(ctx, mount.Config{FSType: string(t), Source: d.Path(), Options: []mount.Option{{Key: "nouuid"}}})
	if err != nil {
		return fmt.Errorf("replay its log: %w", err)
	}
	return tree.Close()
}

// fdPath names an open file to a program.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
