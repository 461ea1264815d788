package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// diskLabel marks a filesystem that this driver made.
const diskLabel = "holdfast"

// initDisk makes a filesystem on a blank disk, mounts it and makes its root a pool.
// A crash leaves a disk that the same call goes on with: without a filesystem, or
// with ours and no marker. One that is left in the middle of mkfs is refused, for
// nothing tells it from somebody else's: a person wipes it.
func (b *Backend) initDisk(ctx context.Context, pc PoolConfig) error {
	d, err := disk.Find(pc.Device)
	if err != nil {
		return err
	}
	if err := b.checkNameFree(pc.Name, ""); err != nil {
		return err
	}
	if err := os.MkdirAll(pc.Dir, 0o700); err != nil {
		return fmt.Errorf("make the pool's mountpoint: %w", err)
	}
	unlock, err := lockDirSoon(ctx, pc.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if found, ok, err := d.Filesystem(); err == nil && ok && found.Label == diskLabel {
		if uuid, err := filesystemAt(pc.Dir); err == nil && uuid == found.UUID {
			if err := checkWanted(d, found, pc); err != nil {
				return err
			}
			return b.makeDiskPool(pc, d) // an earlier call got as far as this
		}
	}
	if err := b.mountNew(ctx, d, pc); err != nil {
		return err
	}
	if err := b.cfg.Fault.At("pool-disk/mounted"); err != nil {
		return err
	}
	if err := b.makeDiskPool(pc, d); err != nil {
		return errors.Join(err, unmountDisk(ctx, pc.Dir))
	}
	return nil
}

// mountNew makes the filesystem of a new pool and mounts it.
func (b *Backend) mountNew(ctx context.Context, d disk.Device, pc PoolConfig) error {
	if err := checkMountpoint(pc.Dir); err != nil {
		return err
	}
	found, err := b.ensureFilesystem(ctx, d, pc)
	if err != nil {
		return err
	}
	if err := b.cfg.Fault.At("pool-disk/made"); err != nil {
		return err
	}
	other, err := findDisk(found.UUID)
	if err == nil && other != d {
		err = fmt.Errorf("%w: %s changed while its filesystem was made", volume.ErrUnavailable, d.Path)
	}
	if err != nil {
		return err
	}
	return mountDevice(ctx, d, found, pc.Dir)
}

// ensureFilesystem makes the filesystem of a new pool, unless an earlier call that
// did not finish has. Everything else on the device is refused.
func (b *Backend) ensureFilesystem(ctx context.Context, d disk.Device, pc PoolConfig) (disk.Filesystem, error) {
	ours, err := ownLoops()
	if err != nil {
		return disk.Filesystem{}, err
	}
	if ours(d) {
		return disk.Filesystem{}, fmt.Errorf("%w: %s is a volume or a pool image of this driver", volume.ErrInUse, d.Path)
	}
	f, err := d.Claim()
	if err != nil {
		return disk.Filesystem{}, err
	}
	defer f.Close()
	if found, ok, err := disk.ReadFilesystem(f); err == nil && ok && found.Label == diskLabel {
		// What is in it decides: see makeDiskPool.
		return found, errors.Join(checkWanted(d, found, pc), checkFinished(d, found, f))
	}
	if d.Size < minPoolSize {
		return disk.Filesystem{}, fmt.Errorf("%w: %s has %s; a pool needs %s at least", volume.ErrInvalid, d.Path, d.Size, minPoolSize)
	}
	if names := d.Partitions(); len(names) > 0 {
		return disk.Filesystem{}, fmt.Errorf("%w: %s has partitions (%s, ...); name one that is empty, or remove them by hand", volume.ErrPrecondition, d.Path, names[0])
	}
	if err := disk.Blank(f, d.Size); err != nil {
		return disk.Filesystem{}, fmt.Errorf("%w; nothing was changed", err)
	}
	// The program claims the device for itself, and looks once more whether anything
	// is on it: it is given no --force.
	if err := f.Close(); err != nil {
		return disk.Filesystem{}, fmt.Errorf("close %s: %w", d.Path, err)
	}
	if err := makeFilesystem(ctx, b.cfg.Runner, pc.Filesystem, d.Path); err != nil {
		return disk.Filesystem{}, err
	}
	found, ok, err := d.Filesystem()
	if err == nil && !ok {
		err = fmt.Errorf("what mkfs made on %s cannot be read back", d.Path)
	}
	return found, err
}

// makeDiskPool makes the root of a disk that is mounted at pc.Dir a pool. One that
// is a pool already is another's, unless this node was making it.
func (b *Backend) makeDiskPool(pc PoolConfig, d disk.Device) error {
	p, err := b.openDir(pc.Dir, pc.Name)
	if err != nil {
		return err
	}
	m, err := readMarker(p.root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err = p.makeLayout(pc)
	case err == nil && !b.making(m.PoolID):
		err = fmt.Errorf("%w: %s has pool %s on it already; to use it on this node: driver pool adopt %s=%s", volume.ErrPrecondition, d.Path, m.PoolID, pc.Name, pc.Device)
	}
	return errors.Join(err, p.close())
}

// checkWanted refuses to go on with a filesystem of another type than is asked for.
func checkWanted(d disk.Device, found disk.Filesystem, pc PoolConfig) error {
	if pc.Filesystem == "" || pc.Filesystem == found.Type {
		return nil
	}
	return fmt.Errorf("%w: an earlier call made %s on %s, and --pool-filesystem says %s; leave that out, or if nobody needs what is on it, remove it by hand (wipefs --all --backup %s) and try again",
		volume.ErrPrecondition, found.Type, d.Path, pc.Filesystem, d.Path)
}

// checkFinished refuses an XFS whose mkfs was interrupted; such a btrfs has another
// magic number, and is not taken for one.
func checkFinished(d disk.Device, found disk.Filesystem, dev io.ReaderAt) error {
	if found.Type != FilesystemXFS {
		return nil
	}
	const inProgressAt = 126 // sb_inprogress in struct xfs_dsb (fs/xfs/libxfs/xfs_format.h)
	var inProgress [1]byte
	if _, err := dev.ReadAt(inProgress[:], inProgressAt); err != nil {
		return fmt.Errorf("read the superblock on %s: %w", d.Path, err)
	}
	if inProgress[0] == 0 {
		return nil
	}
	return fmt.Errorf("%w: the mkfs of the xfs on %s was interrupted; if nobody needs what is on it, remove it by hand (wipefs --all --backup %s) and try again", volume.ErrPrecondition, d.Path, d.Path)
}
