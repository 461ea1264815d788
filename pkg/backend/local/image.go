package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	// ImageFile is the pool image inside the directory of --pool with --pool-size.
	ImageFile = "pool.img"
	// MountDir is where that image is mounted, inside the same directory.
	MountDir = "pool"

	newImageFile = ImageFile + ".new"
	minPoolSize  = 512 * volume.MiB
	imageTag     = "holdfast-pool"
)

// statBlock is the unit of st_blocks, in bytes (stat(2)).
const statBlock = 512

// mountImage makes the pool image if it must, attaches it, mounts it, and
// returns the directory that then is the pool. known says that the pool is
// registered: then nothing is made.
func (b *Backend) mountImage(ctx context.Context, pc PoolConfig, known bool) (string, error) {
	root, err := os.OpenRoot(pc.Dir)
	if err != nil {
		return "", fmt.Errorf("open the directory of the pool image: %w", err)
	}
	defer root.Close()
	img, err := root.OpenFile(ImageFile, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if known {
			return "", fmt.Errorf("%w: the image %s of the registered pool is gone: its disk is not mounted or it was deleted; nothing was created", volume.ErrUnavailable, filepath.Join(pc.Dir, ImageFile))
		}
		img, err = b.createImage(ctx, root, pc)
	}
	if err != nil {
		return "", fmt.Errorf("open the pool image: %w", err)
	}
	defer img.Close()
	if err := b.keepAllocated(img); err != nil {
		return "", err
	}
	if err := b.growImage(img, pc); err != nil {
		return "", err
	}
	// Once more, for now nothing beyond its end makes up for holes.
	if err := b.keepAllocated(img); err != nil {
		return "", err
	}
	dev, err := b.attachImage(ctx, img)
	if err != nil {
		return "", fmt.Errorf("attach the pool image %s: %w", img.Name(), err)
	}
	defer dev.Close() // the mount holds it from now on
	if err := b.refreshImage(img, dev); err != nil {
		return "", err
	}
	dir := filepath.Join(pc.Dir, MountDir)
	return dir, mountPool(ctx, pc.Dir, dir, dev)
}

// createImage makes a fully allocated image with a filesystem under a temporary name, which
// a crash leaves for the next try to replace.
func (b *Backend) createImage(ctx context.Context, root *os.Root, pc PoolConfig) (*os.File, error) {
	if err := root.Remove(newImageFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the unfinished image: %w", err)
	}
	f, err := root.OpenFile(newImageFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := b.fillImage(ctx, root, f, pc); err != nil {
		return nil, errors.Join(err, f.Close(), root.Remove(newImageFile))
	}
	return f, nil
}

func (b *Backend) fillImage(ctx context.Context, root *os.Root, f *os.File, pc PoolConfig) error {
	if onBtrfs, err := btrfs.IsBtrfs(f); err != nil {
		return err
	} else if onBtrfs {
		// A pool image that copies on write again would fragment twice over.
		if err := btrfs.SetNoCow(f); err != nil {
			return err
		}
	}
	if err := b.checkHostRoom(f, pc.Size); err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(pc.Size)); err != nil {
		return fmt.Errorf("allocate %s for the pool image: %w; give a smaller --pool-size or more disk", pc.Size, err)
	}
	if err := makeFilesystem(ctx, b.cfg.Runner, pc.Filesystem, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync the pool image: %w", err)
	}
	if err := b.cfg.Fault.At("pool-image/made"); err != nil {
		return err
	}
	return durable.Rename(root, newImageFile, ImageFile)
}

// checkHostRoom refuses to take so much of the host's disk that kubelet would
// begin to evict pods.
func (b *Backend) checkHostRoom(f *os.File, want volume.Bytes) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("statfs the host's filesystem: %w", err)
	}
	free := volume.Bytes(st.Bavail) * volume.Bytes(st.Bsize)
	total := volume.Bytes(st.Blocks) * volume.Bytes(st.Bsize)
	keep := volume.Bytes(float64(total) * b.cfg.HostReserve)
	if free-want < keep {
		return fmt.Errorf("%w: the host's filesystem has %s free of %s; a pool image of %s would leave less than the %s that keep kubelet from evicting pods; give a smaller --pool-size or another directory",
			volume.ErrNoSpace, free, total, want, keep)
	}
	return nil
}

// keepAllocated makes sure that every block of the image has its place on the
// host's disk: what something has punched out is allocated again.
func (b *Backend) keepAllocated(img *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return fmt.Errorf("stat the pool image: %w", err)
	}
	missing := volume.Bytes(st.Size - st.Blocks*statBlock)
	if missing <= 0 {
		return nil
	}
	if err := unix.Fallocate(int(img.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, st.Size); err != nil {
		return fmt.Errorf("%w: %s of the pool image have no place on the host's disk: %w; free that much there", volume.ErrNoSpace, missing, err)
	}
	b.notice(ImageReallocated, "%s of the pool image %s had lost their place on the host's disk; allocated again", missing, img.Name())
	return nil
}

// attachImage finds the loop device that has the image, or makes it. There must
// never be two: the same filesystem would be mounted twice.
func (b *Backend) attachImage(ctx context.Context, img *os.File) (*loop.Device, error) {
	attached, err := b.loopsOn(img)
	if err != nil {
		return nil, err
	}
	if len(attached) > 1 {
		return nil, fmt.Errorf("%w: it is on /dev/loop%d and /dev/loop%d at once; mounting both would destroy it: unmount and detach the one that no pool uses", volume.ErrUnavailable, attached[0].Index, attached[1].Index)
	}
	if len(attached) == 1 {
		d, err := attached[0].Open()
		if err != nil {
			return nil, err
		}
		// What attached it may not have known that an fstrim must not pass.
		if err := d.SetNoDiscard(); err != nil {
			return nil, errors.Join(err, d.Close())
		}
		return d, nil
	}
	if err := unix.Flock(int(img.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w: another process has it locked: %w", volume.ErrUnavailable, err)
	}
	cfg := loop.Config{Backing: img, Tag: imageTag, BlockSize: 4096, DirectIO: true, NoDiscard: true}
	d, err := loop.Attach(ctx, cfg)
	if errors.Is(err, volume.ErrPrecondition) {
		why := err
		cfg.DirectIO = false
		if d, err = loop.Attach(ctx, cfg); err == nil { // else that was not what is lacking
			b.notice(DirectIOOff, "the pool image %s has no direct I/O (%v): it works, and caches everything twice", img.Name(), why)
		}
	}
	return d, err
}

// mountPool mounts an attached pool image at dir, which is inside base, unless
// it is mounted there already.
func mountPool(ctx context.Context, base, dir string, dev *loop.Device) error {
	info, err := dev.Info()
	if err != nil {
		return err
	}
	root, err := mount.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	path, err := root.Resolve(dir)
	if err != nil {
		return err
	}
	mounts, err := mount.List()
	if err != nil {
		return err
	}
	if layers := mount.At(mounts, path); len(layers) > 0 {
		// btrfs shows an anonymous device number; its source names the loop. XFS
		// shows the number of the loop.
		top := layers[len(layers)-1]
		if top.FSType == FilesystemBtrfs && top.Source == dev.Path() || top.FSType == FilesystemXFS && top.Major == info.Major && top.Minor == info.Minor {
			return nil
		}
		return fmt.Errorf("%w: %s is a mount of %s, not of the pool image on %s; unmount it", volume.ErrUnavailable, path, top.Source, dev.Path())
	}
	found, ok, err := disk.ReadFilesystem(dev.File())
	if err == nil && !ok {
		err = fmt.Errorf("%w: it has neither a btrfs nor an XFS; nothing was made on it: restore it, or remove the image and its registration if it was never a pool", volume.ErrDataLoss)
	}
	if err != nil {
		return fmt.Errorf("the pool image on %s: %w", dev.Path(), err)
	}
	target, err := root.CreateTarget(dir, mount.Dir)
	if err != nil {
		return err
	}
	defer target.Close()
	tree, err := mount.New(ctx, mount.Config{ // never nouuid: it is what keeps a copy of the image out
		FSType: found.Type, Source: fmt.Sprintf("/dev/loop%d", info.Index),
		Options: []mount.Option{{Key: "nodiscard"}}, Attr: mount.AttrNoAtime,
	})
	if err != nil {
		return fmt.Errorf("mount the pool image: %w", err)
	}
	return errors.Join(tree.Attach(target), tree.Close())
}
