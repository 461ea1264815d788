package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Init makes an empty directory on btrfs or XFS a pool and registers it. A directory
// that is a pool already, and the one that is registered, is success, also while
// a driver uses it.
func (b *Backend) Init(ctx context.Context) error {
	for _, s := range b.slots {
		if err := b.init(ctx, s); err != nil {
			what := s.cfg.Dir
			if s.cfg.Device != "" {
				what = s.cfg.Device
			}
			return fmt.Errorf("init pool %s of %s: %w", s.cfg.Name, what, err)
		}
	}
	return nil
}

func (b *Backend) init(ctx context.Context, s *slot) error {
	reg, err := findRegistration(b.state, s.cfg)
	if err == nil && s.cfg.Device != "" {
		if err := checkSameDisk(s.cfg, reg); err != nil {
			return err
		}
	}
	if err == nil && isHere(reg) == nil {
		s.know(reg.PoolID)
		return nil // a driver may be using it
	}
	switch {
	case s.cfg.Device != "" && errors.Is(err, volume.ErrNotFound):
		err = b.initDisk(ctx, s.cfg)
	case s.cfg.Device == "" && s.cfg.Size == 0:
		err = b.initDir(s.cfg)
	default:
		err = nil
	}
	if err != nil {
		return err
	}
	return b.openFirst(ctx, s)
}

// openFirst opens a new pool, which registers it. A driver that has been waiting for
// it may be faster: then it does.
func (b *Backend) openFirst(ctx context.Context, s *slot) error {
	const patience, pause = 3 * time.Second, 50 * time.Millisecond
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		s.tryOpen(ctx)
		_, err := s.get()
		if err == nil || !s.waitsForLock() || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		if reg, rerr := findRegistration(b.state, s.cfg); rerr == nil && isHere(reg) == nil {
			s.know(reg.PoolID)
			return nil
		}
	}
}

// waitsForLock says whether the pool is not open because another process has it, or
// looks at it.
func (s *slot) waitsForLock() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(s.reason, unix.EWOULDBLOCK)
}

func (b *Backend) initDir(pc PoolConfig) error {
	if _, err := findRegistration(b.state, pc); !errors.Is(err, volume.ErrNotFound) {
		return err // registered: openPool says whether it is there
	}
	_, err := os.Lstat(pc.Dir)
	made := errors.Is(err, fs.ErrNotExist)
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
		if made {
			err = errors.Join(err, os.Remove(pc.Dir))
		}
		return err
	}
	_, err = readMarker(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = p.makeLayout(pc)
	}
	return errors.Join(err, p.close())
}
