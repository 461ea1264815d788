package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// tagOf is what marks the loop device of a volume, in lo_file_name. The id names
// the pool, so the tag is that of this volume on any machine.
func tagOf(id volume.ID) string {
	sum := sha256.Sum256([]byte(id))
	return volumeTag + hex.EncodeToString(sum[:16])
}

// volumeTag starts the tags of volumes.
const volumeTag = "holdfast:"

// attachWait bounds how long Attach waits for a loop device that is just coming or
// going.
const attachWait = 5 * time.Second

// Attach implements backend.Attacher.
func (b *Backend) Attach(ctx context.Context, id volume.ID) (*backend.Device, error) {
	p, err := b.poolOf(volume.KindVolume, id)
	if err != nil {
		return nil, err
	}
	o, err := p.find(id)
	if err != nil {
		return nil, err
	}
	d, err := p.attach(ctx, o)
	if err != nil {
		b.suspect(err)
		return nil, fmt.Errorf("attach %s: %w", id, err)
	}
	return deviceOf(d)
}

func deviceOf(d *loop.Device) (*backend.Device, error) {
	info, err := d.Info()
	if err != nil {
		return nil, errors.Join(deviceGone(err), d.Close())
	}
	return &backend.Device{Path: d.Path(), Major: info.Major, Minor: info.Minor, Size: info.Size, Hold: d}, nil
}

// deviceGone keeps a loop device that is not there any more from being taken for a
// volume that does not exist, which is what volume.ErrNotFound says to a caller.
func deviceGone(err error) error {
	if !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	return fmt.Errorf("%w: somebody detached the volume's loop device just now, try again: %s", volume.ErrBusy, err.Error())
}

func (p *pool) attach(ctx context.Context, o object) (*loop.Device, error) {
	patience := time.NewTimer(attachWait)
	defer patience.Stop()
	for {
		d, err := p.attachOnce(ctx, o)
		if !errors.Is(err, volume.ErrBusy) {
			return d, err
		}
		// Most likely somebody holds the lock and shows no loop: a device on its way
		// up or down.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, while waiting: %s", ctx.Err(), err.Error())
		case <-patience.C:
			return nil, err
		case <-time.After(10*time.Millisecond + rand.N(20*time.Millisecond)):
		}
	}
}

// attachOnce finds the volume's loop device or makes it. It is ErrBusy if the
// image is locked and no device has it, or if the device just came or went.
func (p *pool) attachOnce(ctx context.Context, o object) (*loop.Device, error) {
	img, err := p.openImage(o, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	// The loop keeps a reference of its own; the lock stays with the open file.
	defer img.Close()
	if err := p.checkData(o); err != nil {
		return nil, err
	}
	if err := p.guard.checkRoom(o); err != nil {
		return nil, err
	}
	d, err := p.backend.findLoop(o.ID, img)
	if err != nil {
		return nil, err
	}
	if d != nil {
		return d, p.settle(o, d)
	}
	if err := unix.Flock(int(img.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w: another process has the image locked: stop what uses it (see lslocks): %w", volume.ErrBusy, err)
	}
	at := p.backend.cfg.Fault
	if err := at.At("attach/locked"); err != nil {
		return nil, err
	}
	d, err = loop.Attach(ctx, loop.Config{
		Backing: img, Tag: tagOf(o.ID), BlockSize: o.Format.SectorSize,
		// A 512-byte image on a 4096-byte pool cannot have direct I/O.
		DirectIO:  o.Format.SectorSize == 4096,
		NoDiscard: p.keepsBlocks(o),
	})
	if err != nil {
		return nil, err
	}
	if err := at.At("attach/attached"); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	// Somebody who does not know our lock may have been faster by an instant.
	if err := p.backend.checkAlone(d, o.ID, img); err != nil {
		return nil, errors.Join(err, d.Detach())
	}
	return d, p.settle(o, d)
}

// settle gives a device, new or found, what it must have before it is used; on
// error it closes it.
func (p *pool) settle(o object, d *loop.Device) error {
	err := func() error {
		size, err := d.Size()
		if err != nil {
			return err
		}
		if size < o.Size { // it lingered while the volume grew
			if err := d.Refresh(); err != nil {
				return err
			}
		}
		if p.keepsBlocks(o) {
			if err := d.SetNoDiscard(); err != nil { // it may come from a driver that overcommitted
				return err
			}
		}
		if err := p.guard.attached(o, d); err != nil {
			return err
		}
		if o.Format.Mode != volume.ModeBlock {
			return nil
		}
		// A filesystem keeps its device by being mounted. A block device is opened
		// and closed by the pod as it likes and must stay. Until this line our
		// death would have taken a new one away; one that was found may have been
		// told to go with its last user (LOOP_CLR_FD on an open device does that).
		return d.SetAutoclear(false)
	}()
	if err != nil {
		return errors.Join(deviceGone(err), d.Close())
	}
	return nil
}

// checkAlone refuses an image that another loop device has too.
func (b *Backend) checkAlone(d *loop.Device, id volume.ID, img *os.File) error {
	all, err := b.loopsOn(img)
	if err != nil {
		return err
	}
	return checkOthers(d, id, all)
}

func checkOthers(d *loop.Device, id volume.ID, all []loop.Info) error {
	for _, l := range all {
		if d == nil || l.Index != d.Index() {
			return fmt.Errorf("%w: /dev/loop%d (tag %q) has the image of %s attached too; writing through both would destroy it: detach it (losetup -d) if it is nobody's", volume.ErrPrecondition, l.Index, l.Tag, id)
		}
	}
	return nil
}

// loopsOf are the loop devices that have the volume's tag, or its image, which is
// open.
func (b *Backend) loopsOf(id volume.ID, img *os.File) ([]loop.Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", img.Name(), err)
	}
	return b.loops.FindAny(loop.Wanted{Tag: tagOf(id), Dev: st.Dev, Inode: st.Ino})
}

// loopsOn are the loop devices that have an open file, whatever their tag.
func (b *Backend) loopsOn(img *os.File) ([]loop.Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", img.Name(), err)
	}
	return b.loops.FindOn(st.Dev, st.Ino)
}

// checkData refuses a data/ that is not the one that the record was written for,
// but was put there by something else. Of the image the store knows more than its
// inode number: every image on btrfs is inode 257.
func (p *pool) checkData(o object) error {
	dir, err := p.openObject(o.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	uuid, err := p.store.dataUUID(dir)
	if err == nil && uuid != o.DataUUID {
		err = fmt.Errorf("%w: %s/%s is %s, its record was written for %s: something replaced it; put the original back", volume.ErrDataLoss, o.dir, dataDir, uuid, o.DataUUID)
	}
	return err
}

// findLoop finds the loop device that has the volume's tag and checks that it is
// on this very image. nil means that there is none.
func (b *Backend) findLoop(id volume.ID, img *os.File) (*loop.Device, error) {
	all, err := b.loopsOf(id, img)
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(slices.Clone(all), func(l loop.Info) bool { return l.Tag != tagOf(id) })
	if len(found) > 1 {
		return nil, fmt.Errorf("%w: %d loop devices (loop%d, loop%d) carry the tag of %s; writing through both would destroy it: unmount and detach all but one (losetup -d)",
			volume.ErrPrecondition, len(found), found[0].Index, found[1].Index, id)
	}
	if len(found) == 0 {
		return nil, checkOthers(nil, id, all)
	}
	d, err := found[0].Open()
	if errors.Is(err, volume.ErrNotFound) {
		return nil, fmt.Errorf("%w: loop%d is just going away", volume.ErrBusy, found[0].Index)
	}
	if err != nil {
		return nil, err
	}
	if err := checkBacking(d, id, img); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// checkBacking confirms, now that the device is open and cannot change any more,
// that it is what findLoop saw. Device and inode numbers can be compared because
// the loop itself keeps the pool mounted.
func checkBacking(d *loop.Device, id volume.ID, img *os.File) error {
	info, err := d.Info()
	if err != nil {
		return deviceGone(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return fmt.Errorf("stat the image of %s: %w", id, err)
	}
	if info.BackingDev != st.Dev || info.BackingInode != st.Ino {
		return fmt.Errorf("%w: %s carries the tag of %s and is attached to another file (%s): detach it by hand once nothing uses it", volume.ErrPrecondition, d.Path(), id, info.BackingPath)
	}
	return nil
}

// Lookup implements backend.Attacher.
func (b *Backend) Lookup(_ context.Context, id volume.ID) (*backend.Device, bool, error) {
	d, err := b.openByTag(id)
	if err != nil || d == nil {
		return nil, false, err
	}
	dev, err := deviceOf(d)
	return dev, err == nil, err
}

// openByTag opens the loop device of a volume; nil means that there is none. It
// needs neither pool nor record, so what is attached can be let go when the pool
// is away.
func (b *Backend) openByTag(id volume.ID) (*loop.Device, error) { return openTagged(&b.loops, id) }

// If the volume's pool is dead its device has no tag any more, so the path must do,
// which ends with the id: what is attached can be let go all the same.
func openTagged(loops *loop.Index, id volume.ID) (*loop.Device, error) {
	return loops.Open(loop.Wanted{Tag: tagOf(id), DeadPath: "/" + objectDir(id) + "/" + dataDir + "/" + imageFile})
}

// Refresh implements backend.Attacher.
func (b *Backend) Refresh(ctx context.Context, id volume.ID) error {
	v, err := b.Volume(ctx, id)
	if err != nil {
		return err
	}
	if p, err := b.poolOf(volume.KindVolume, id); err == nil {
		// Whoever asks is going to make the filesystem larger, and would hang.
		if err := p.guard.checkNotFrozen(id, volume.ErrUnavailable); err != nil {
			return err
		}
	}
	d, err := b.openByTag(id)
	if err != nil || d == nil {
		return err
	}
	defer d.Close()
	if err := d.Refresh(); err != nil {
		return fmt.Errorf("give %s the size of %s: %w", d.Path(), id, deviceGone(err))
	}
	size, err := d.Size()
	if err == nil && size < v.Size {
		err = fmt.Errorf("%w: %s still has %s after it was told to have %s", volume.ErrPrecondition, d.Path(), size, v.Size)
	}
	return err
}

// detachWait bounds how long Detach waits for the device to be gone before it
// leaves that to its last user.
const detachWait = 500 * time.Millisecond

// Detach implements backend.Attacher.
func (b *Backend) Detach(ctx context.Context, id volume.ID) error {
	if _, err := volume.ParseID(volume.KindVolume, string(id)); err != nil {
		return nil // it names nothing, and no file in the state directory either
	}
	d, err := b.openByTag(id)
	if err != nil {
		return err
	}
	if d == nil {
		return b.endGuard(ctx, id, nil)
	}
	err = b.endGuard(ctx, id, d)
	if err == nil {
		// What was written to a raw device and not synced is still in its cache.
		err = d.Sync()
	}
	if info, ierr := d.Info(); ierr == nil && info.Dead {
		err = nil // it can never be written
	}
	if err == nil {
		err = b.cfg.Fault.At("detach/synced")
	}
	if err == nil {
		err = d.Detach()
	}
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	for end := time.Now().Add(detachWait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		found, err := b.loops.Find(tagOf(id))
		if err != nil || len(found) == 0 || ctx.Err() != nil {
			return err
		}
	}
	return nil // another mount namespace holds it: the next Attach finds it again
}

// checkUnused refuses to delete a volume that is attached, by whomever, and says
// who has it.
func (p *pool) checkUnused(id volume.ID) error {
	found, err := p.loopsOf(id)
	if err != nil || len(found) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s is attached as loop%d, held by %s; unstage it, or end what holds it",
		volume.ErrInUse, id, found[0].Index, holders(found[0]))
}

// loopsOf are the loop devices that have the volume's tag, or its image if there is
// one.
func (p *pool) loopsOf(id volume.ID) ([]loop.Info, error) {
	o, ok := p.lookup(id)
	if !ok {
		return p.backend.loops.Find(tagOf(id))
	}
	img, err := openAt(p.dir, o.dir+"/"+dataDir+"/"+imageFile, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return p.backend.loops.Find(tagOf(id))
	}
	if err != nil {
		return nil, err
	}
	defer img.Close()
	return p.backend.loopsOf(id, img)
}
