package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Adopt registers pools that come from another node, or whose registration was
// lost with the state directory: disks, directories, directories with a pool image.
// It mounts a disk and attaches and mounts a pool image, which gets back what holes
// were punched into it, and takes that away again if there is no pool to adopt. It
// makes no filesystem and no pool. One that is registered just so is success.
//
// It is ErrPrecondition if there is no pool, ErrExists if another pool has the name
// or the directory, ErrUnavailable if the pool is a copy, or if somebody uses it.
func (b *Backend) Adopt(ctx context.Context) error {
	for _, s := range b.slots {
		r, err := b.adopt(ctx, s.cfg)
		if err != nil {
			what := s.cfg.Dir
			if s.cfg.Device != "" {
				what = s.cfg.Device
			}
			return fmt.Errorf("adopt %s as pool %s: %w", what, s.cfg.Name, err)
		}
		s.know(r.PoolID)
	}
	return nil
}

func (b *Backend) adopt(ctx context.Context, pc PoolConfig) (registration, error) {
	if pc.Device != "" {
		if err := os.MkdirAll(pc.Dir, 0o700); err != nil {
			return registration{}, fmt.Errorf("make the pool's mountpoint: %w", err)
		}
	}
	unlock, err := lockDirSoon(ctx, pc.Dir)
	if err != nil {
		return registration{}, err
	}
	defer unlock()
	r, undo, err := b.show(ctx, pc)
	if err != nil {
		return registration{}, err
	}
	if err := b.take(&r); err != nil {
		return registration{}, errors.Join(err, undo())
	}
	return r, nil
}

// show mounts what must be mounted to see the pool; undo takes that away again. The
// registration lacks what the pool itself says.
func (b *Backend) show(ctx context.Context, pc PoolConfig) (r registration, undo func() error, err error) {
	r = registration{Name: pc.Name, Dir: pc.Dir}
	undo = func() error { return nil }
	if pc.Device != "" {
		r.Device = true
		undo, err = showDisk(ctx, pc)
		return r, undo, err
	}
	st, err := os.Stat(filepath.Join(pc.Dir, ImageFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, undo, nil
	}
	if err != nil {
		return r, undo, fmt.Errorf("look for a pool image: %w", err)
	}
	r.Image = true
	before, err := isMountpoint(r.root())
	if err != nil {
		return r, undo, err
	}
	pc.Size = volume.Bytes(st.Size())
	if _, err := b.mountImage(ctx, pc, true); err != nil {
		return r, undo, err
	}
	if !before {
		undo = func() error { return unmountDisk(ctx, r.root()) }
	}
	return r, undo, nil
}

func showDisk(ctx context.Context, pc PoolConfig) (undo func() error, err error) {
	undo = func() error { return nil }
	d, err := disk.Find(pc.Device)
	if err != nil {
		return undo, err
	}
	found, ok, err := d.Filesystem()
	if err != nil {
		return undo, err
	}
	if !ok {
		return undo, fmt.Errorf("%w: there is no filesystem on %s that a pool can be on", volume.ErrPrecondition, d.Path)
	}
	if err := checkOneDevice(d, found); err != nil {
		return undo, err
	}
	if uuid, err := filesystemAt(pc.Dir); err == nil && uuid == found.UUID {
		return undo, nil
	}
	if err := checkMountpoint(pc.Dir); err != nil {
		return undo, err
	}
	only, err := findDisk(found.UUID)
	if err == nil && only != d {
		err = fmt.Errorf("%w: %s belongs to %s", volume.ErrInvalid, d.Path, only.Path)
	}
	if err != nil {
		return undo, err
	}
	return func() error { return unmountDisk(ctx, pc.Dir) }, mountDevice(ctx, d, found, pc.Dir)
}

// take completes the registration of a pool that can be seen now, and makes it.
func (b *Backend) take(r *registration) error {
	p, err := b.openDir(r.root(), r.Name)
	if err != nil {
		return err
	}
	err = p.identify(r)
	if err == nil && !b.isRegistered(*r) {
		err = b.checkFree(*r)
		if err == nil {
			err = p.takeLock() // nobody else uses it
		}
		if err == nil {
			err = b.enroll(*r)
		}
	}
	return errors.Join(err, p.close())
}

// identify reads what the pool says of itself.
func (p *pool) identify(r *registration) error {
	m, err := readMarker(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: there is no pool at the top of it; if a directory on it is one, mount it by hand and name that directory; if it should become one: driver pool init", volume.ErrPrecondition)
	}
	if err != nil {
		return err
	}
	if _, uuid := p.store.identity(); m.FSUUID != uuid {
		return fmt.Errorf("%w: its marker belongs to filesystem %s, this is %s: its files were copied, and the same pool must not exist twice", volume.ErrUnavailable, m.FSUUID, uuid)
	}
	r.PoolID, r.FSUUID = m.PoolID, m.FSUUID
	return nil
}

func (b *Backend) isRegistered(r registration) bool {
	all, _ := registrations(b.state) // one that cannot be read is not this one; checkFree refuses then
	for _, have := range all {
		if have == r {
			return true
		}
	}
	return false
}

// checkFree refuses a registration that would take another pool's place.
func (b *Backend) checkFree(r registration) error {
	if err := b.checkNameFree(r.Name, r.PoolID); err != nil {
		return err
	}
	all, err := registrations(b.state)
	for _, have := range all {
		if have.Dir == r.Dir && have.PoolID != r.PoolID {
			return fmt.Errorf("%w: %s is where pool %s (%s) is registered; name another directory", volume.ErrExists, r.Dir, have.Name, have.PoolID)
		}
	}
	return err
}

// lockDirSoon is lockDir for a person, who need not know that a driver looks at the
// directory just now.
func lockDirSoon(ctx context.Context, dir string) (unlock func(), err error) {
	const patience = 3 * time.Second
	for end := time.Now().Add(patience); ; {
		unlock, err = lockDir(dir)
		if !errors.Is(err, volume.ErrUnavailable) || time.Now().After(end) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
