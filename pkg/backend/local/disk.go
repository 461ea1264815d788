package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A disk that Init or Adopt registered is known by the UUID of its filesystem and
// mounted by the driver, unless something else has done so already.

// checkNotBelowDev refuses a directory below /dev, which nobody means: it is a disk
// that is not there, or one that is to be a pool first.
func checkNotBelowDev(pc PoolConfig) error {
	switch {
	case !strings.HasPrefix(filepath.Clean(pc.Dir)+"/", "/dev/"):
		return nil
	case disk.IsDevice(pc.Dir):
		return fmt.Errorf("%w: %s is a device; driver pool init or adopt makes it a pool, and says which directory to name then", volume.ErrInvalid, pc.Dir)
	}
	return fmt.Errorf("%w: there is no device %s; nothing was made", volume.ErrNotFound, pc.Dir)
}

// mountDisk makes sure that dir shows the filesystem of a registered disk.
func (b *Backend) mountDisk(ctx context.Context, dir string, reg registration) error {
	if uuid, err := filesystemAt(dir); err == nil && uuid == reg.FSUUID {
		return nil // the machine's fstab, or the driver before this one
	}
	if err := checkMountpoint(dir); err != nil {
		return err
	}
	d, err := findDiskWith(&b.disks, &b.health.around.loops, reg.FSUUID)
	if err != nil {
		return fmt.Errorf("look for the disk of pool %s: %w", reg.Name, err)
	}
	fs, ok, err := d.Filesystem()
	if err == nil && (!ok || fs.UUID != reg.FSUUID) {
		err = fmt.Errorf("%w: the filesystem on %s is gone", volume.ErrUnavailable, d.Path)
	}
	if err != nil {
		return err
	}
	return mountDevice(ctx, d, fs, dir)
}

// filesystemAt is the UUID of the filesystem that a directory is on, if a pool can
// be on it.
func filesystemAt(dir string) (string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", fmt.Errorf("open the pool's directory: %w", err)
	}
	defer f.Close()
	s, err := openStore(f)
	if err != nil {
		return "", err
	}
	_, uuid := s.identity()
	return uuid, nil
}

// isMountpoint says whether something is mounted at a directory, which need not be
// there.
func isMountpoint(dir string) (bool, error) {
	root, err := mount.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return false, err
	}
	defer root.Close()
	path, err := root.Resolve(dir)
	if err != nil {
		return false, err
	}
	mounts, err := mount.List()
	return len(mount.At(mounts, path)) > 0, err
}

// checkMountpoint refuses to mount over anything.
func checkMountpoint(dir string) error {
	root, err := mount.OpenRoot(filepath.Dir(dir))
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
		return fmt.Errorf("%w: %s is a mount of %s, not of the pool's disk; unmount it", volume.ErrUnavailable, path, layers[len(layers)-1].Source)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: %s is not mounted and not empty (%s is in it): a disk that is mounted there would hide that; move it away", volume.ErrUnavailable, dir, entries[0].Name())
	}
	return nil
}

// findDisk is the one device that has a filesystem. Two are refused: nobody can
// tell which of them is the copy.
func findDisk(uuid string) (disk.Device, error) {
	return findDiskWith(new(disk.Search), new(loop.Lister), uuid)
}

// findDiskWith is findDisk for one that looks again and again.
func findDiskWith(disks *disk.Search, loops *loop.Lister, uuid string) (disk.Device, error) {
	ours, err := ownLoopsIn(loops)
	if err != nil {
		return disk.Device{}, err
	}
	found, err := disks.WithFilesystem(uuid, ours)
	if err != nil {
		return disk.Device{}, err
	}
	if m := found.Members; len(m) > 0 {
		return disk.Device{}, fmt.Errorf("%w: %s has the filesystem %s and is %s that is not assembled; mounting a part would lose data: assemble it, or disconnect the part", volume.ErrUnavailable, m[0].Path, uuid, m[0].What)
	}
	switch len(found.Devices) {
	case 0:
		return disk.Device{}, fmt.Errorf("%w: no block device has the filesystem %s: the disk is not connected, or does not answer%s; nothing was created", volume.ErrUnavailable, uuid, unread(found.Unread))
	case 1:
		return found.Devices[0], nil
	}
	return disk.Device{}, fmt.Errorf("%w: %s and %s both have the filesystem %s: one is a copy of the other, and mounting the wrong one would lose data; disconnect the copy, or give it a UUID of its own",
		volume.ErrUnavailable, found.Devices[0].Path, found.Devices[1].Path, uuid)
}

// unread names the devices that could not be read, for the end of a sentence.
func unread(devices []disk.Device) string {
	var names []string
	for _, d := range devices {
		names = append(names, d.Path)
	}
	if names == nil {
		return ""
	}
	return fmt.Sprintf(" (%s cannot be read; look into the kernel's log)", strings.Join(names, ", "))
}

// ownLoops says which devices are loops of this driver: what a pod wrote to its
// raw block volume must never be taken for a pool.
func ownLoops() (func(disk.Device) bool, error) { return ownLoopsIn(new(loop.Lister)) }

func ownLoopsIn(loops *loop.Lister) (func(disk.Device) bool, error) {
	all, silent, err := loops.List()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, index := range silent { // perhaps
		names = append(names, fmt.Sprintf("loop%d", index))
	}
	for _, l := range all {
		if strings.HasPrefix(l.Tag, "holdfast") {
			names = append(names, fmt.Sprintf("loop%d", l.Index))
		}
	}
	return func(d disk.Device) bool {
		for _, n := range names {
			if d.Name == n || strings.HasPrefix(d.Name, n+"p") { // a partition of it
				return true
			}
		}
		return false
	}, nil
}

// checkOneDevice refuses a filesystem of which the device is only a part.
func checkOneDevice(d disk.Device, found disk.Filesystem) error {
	if found.Devices == 1 {
		return nil
	}
	return fmt.Errorf("%w: the %s on %s is spread over %d devices; a disk that is a pool has all of it (for redundancy put md or hardware RAID below): mount it by hand and name the directory",
		volume.ErrPrecondition, found.Type, d.Path, found.Devices)
}

// mountDevice mounts a device at dir, which is made if it is not there. What comes
// to be there must be the filesystem that was found.
func mountDevice(ctx context.Context, d disk.Device, found disk.Filesystem, dir string) error {
	if err := checkOneDevice(d, found); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the pool's mountpoint: %w", err)
	}
	root, err := mount.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	target, err := root.CreateTarget(dir, mount.Dir)
	if err != nil {
		return err
	}
	defer target.Close()
	// Without discards what the pool was given stays its own also where the disk
	// is itself thinly provisioned.
	tree, err := mount.New(ctx, mount.Config{
		FSType: found.Type, Source: d.Path, Options: []mount.Option{{Key: "nodiscard"}}, Attr: mount.AttrNoAtime,
	})
	if err != nil {
		return fmt.Errorf("mount the pool's disk: %w", err)
	}
	defer tree.Close()
	top, err := tree.Root()
	if err != nil {
		return err
	}
	defer top.Close()
	s, err := openStore(top)
	if err != nil {
		return err
	}
	if _, uuid := s.identity(); uuid != found.UUID {
		return fmt.Errorf("%w: %s was to have filesystem %s and the kernel mounted %s: there are two copies; disconnect one", volume.ErrUnavailable, d.Path, found.UUID, uuid)
	}
	return tree.Attach(target)
}

// unmountDisk takes away what mountDevice mounted.
func unmountDisk(ctx context.Context, dir string) error {
	root, err := mount.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer root.Close()
	return root.Unmount(ctx, dir)
}
