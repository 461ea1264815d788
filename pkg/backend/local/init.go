package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Init makes an empty directory on btrfs or XFS a pool and registers it. A directory
// that is a pool already, and the one that is registered, is success, also while
// a driver uses it.
func (b *Backend) Init(ctx context.Context) error {
	for _, s := range b.slots {
		reg, err := findRegistration(b.state, s.cfg)
		if err == nil && s.cfg.Device != "" {
			err = checkSameDisk(s.cfg, reg)
			if err != nil {
				return fmt.Errorf("init pool %s on %s: %w", s.cfg.Name, s.cfg.Device, err)
			}
		}
		if err == nil && isHere(reg) == nil {
			s.know(reg.PoolID)
			continue // a driver may be using it
		}
		switch {
		case s.cfg.Device != "" && errors.Is(err, volume.ErrNotFound):
			if err := b.initDisk(ctx, s.cfg); err != nil {
				return fmt.Errorf("init pool %s on %s: %w", s.cfg.Name, s.cfg.Device, err)
			}
		case s.cfg.Device == "" && s.cfg.Size == 0:
			if err := b.initDir(s.cfg); err != nil {
				return fmt.Errorf("init pool %s in %s: %w", s.cfg.Name, s.cfg.Dir, err)
			}
		}
		s.tryOpen(ctx)
		if _, err := s.get(); err != nil {
			return err
		}
	}
	return nil
}

func (b *Backend) initDir(pc PoolConfig) error {
	if _, err := findRegistration(b.state, pc); !errors.Is(err, volume.ErrNotFound) {
		return err // registered: openPool says whether it is there
	}
	if err := os.MkdirAll(pc.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	unlock, err := lockDir(pc.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := b.openDir(pc.Dir, pc.Name)
	if err != nil {
		return err
	}
	_, err = readMarker(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = p.makeLayout(pc)
	}
	return errors.Join(err, p.close())
}
