package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// importTag marks the loop device of an image that is being filled.
const importTag = "holdfast-import"

// mounted calls fn with the image in the staging directory and the root of its
// filesystem, which is mounted where nobody sees it. When it returns, everything
// that fn wrote is in the image, and nothing has the image any more. If this process
// is killed, device and mount go with it.
func (w *importing) mounted(ctx context.Context, dir *os.File, readOnly bool, fn func(img, root *os.File) error) error {
	img, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDWR)
	if err != nil {
		return err
	}
	defer img.Close()
	if err := w.awaitDetached(img); err != nil {
		return err
	}
	f := w.record.Format
	d, err := loop.Attach(ctx, loop.Config{
		Backing: img, Tag: importTag, BlockSize: f.SectorSize, DirectIO: f.SectorSize == 4096,
		NoDiscard: w.pool.keepsBlocks(object{record: w.record}),
	})
	if err != nil {
		return err
	}
	defer d.Close()
	// The kernel keeps a bound with the number of the device, whoever had it.
	var dirty volume.Bytes
	if w.pool.overpromised() {
		dirty = dirtyBound
	}
	if err := d.SetDirtyLimit(dirty); err != nil {
		return err
	}
	t, err := mountUnseen(ctx, d, f.FSType, readOnly)
	if err != nil {
		return errors.Join(err, w.release(img, d))
	}
	err = inside(t, readOnly, func(root *os.File) error { return fn(img, root) })
	return errors.Join(err, w.release(img, d))
}

// mountUnseen mounts what is on a device where nobody sees it.
func mountUnseen(ctx context.Context, d *loop.Device, fsType volume.FSType, readOnly bool) (*mount.Tree, error) {
	cfg := mount.Config{FSType: string(fsType), Source: d.Path(), ReadOnly: readOnly}
	if fsType == volume.XFS {
		cfg.Options = []mount.Option{{Key: "nouuid"}} // a volume with the same may be mounted
	}
	return mount.New(ctx, cfg)
}

// inside calls fn with the root of a tree, writes out what it wrote, and closes the
// tree.
func inside(t *mount.Tree, readOnly bool, fn func(root *os.File) error) error {
	root, err := t.Root()
	if err != nil {
		return errors.Join(err, t.Close())
	}
	err = fn(root)
	if err == nil && !readOnly {
		if serr := unix.Syncfs(int(root.Fd())); serr != nil {
			err = fmt.Errorf("write out the filesystem: %w", serr)
		}
	}
	return errors.Join(err, root.Close(), t.Close())
}

// release waits until the mount has let go of the device, and then until the device
// has let go of the image: the kernel may do both in the background. Nobody breaks it
// off: the image is about to be a volume, or to be removed.
func (w *importing) release(img *os.File, d *loop.Device) error {
	err := awaitRelease(func() (bool, error) {
		held, err := hasHolder(d.Path())
		return !held, err
	})
	if err != nil {
		return fmt.Errorf("unmount %s: %w", d.Path(), err)
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if err := d.Detach(); err != nil {
		return err
	}
	return w.awaitDetached(img)
}

// awaitDetached waits until no loop device has the image.
func (w *importing) awaitDetached(img *os.File) error {
	err := awaitRelease(func() (bool, error) {
		on, err := w.pool.backend.loopsOn(img)
		return len(on) == 0, err
	})
	if err != nil {
		return fmt.Errorf("wait until the image of %s is detached: %w", w.record.ID, err)
	}
	return nil
}

// hasHolder says whether a filesystem on the device is mounted anywhere (man 2 open,
// O_EXCL on block devices).
func hasHolder(path string) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s: %w", path, err)
	}
	return false, unix.Close(fd)
}

// awaitRelease asks until the answer is yes.
func awaitRelease(ask func() (bool, error)) error {
	const patience, pause = 30 * time.Second, 2 * time.Millisecond
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		ok, err := ask()
		if ok || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: something else holds it", volume.ErrBusy)
		}
	}
}
