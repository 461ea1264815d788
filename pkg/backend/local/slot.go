package local

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// slot is the place of one configured pool: open, or the reason why not.
type slot struct {
	cfg     PoolConfig
	backend *Backend

	// opening makes tryOpen wait for the one that is under way. It comes before
	// mu.
	opening sync.Mutex

	// mu comes before pool.mu.
	mu     sync.Mutex
	id     volume.PoolID // known from the registry before the pool is open
	pool   *pool         // nil while unavailable
	reason error         // why pool is nil
	missed bool          // the administrator was told that the pool is away
}

func (s *slot) get() (*pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		// Only as text: whatever sentinel the reason wraps, to the caller the pool is
		// away. A "not found" in it would make a delete succeed.
		return nil, fmt.Errorf("%w: pool %s (%s): %v", volume.ErrUnavailable, s.cfg.Name, s.cfg.Dir, s.reason)
	}
	return s.pool, nil
}

func (s *slot) describe() volume.Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := volume.Pool{ID: s.id, Name: s.cfg.Name, Available: s.pool != nil}
	if s.pool == nil {
		out.Reason = s.reason.Error()
	}
	return out
}

// know sets the id of a pool that is not opened.
func (s *slot) know(id volume.PoolID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id = id
}

// tryOpen opens the pool if it is not open.
func (s *slot) tryOpen(ctx context.Context) {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	open := s.pool != nil
	s.mu.Unlock()
	if open {
		return
	}
	p, id, err := openPool(ctx, s.backend, s.cfg)
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != "" {
		s.id = id
	}
	if err != nil {
		if !s.missed || s.reason.Error() != err.Error() {
			s.backend.notice(PoolMissing, "pool %s (%s) cannot be used: %v; its volumes and their data are left as they are, other pools go on; it is tried every %s and used as soon as it is back, without a restart", s.cfg.Name, s.cfg.Dir, err, retryInterval)
		}
		s.reason, s.missed = err, true
		return
	}
	if s.missed {
		s.backend.notice(PoolBack, "pool %s (%s) is back and used again", s.cfg.Name, s.cfg.Dir)
	}
	s.pool, s.reason, s.missed = p, nil, false
}

func (s *slot) run(ctx context.Context) {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		p, err := s.get()
		if err != nil {
			s.tryOpen(ctx)
			p, err = s.get()
		}
		var kick <-chan struct{} // of a pool that is away nobody kicks
		if err == nil {
			p.tidy(ctx)
			kick = p.kick
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-kick:
		}
	}
}

func (s *slot) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		return nil
	}
	err := s.pool.close()
	s.pool, s.reason = nil, fmt.Errorf("the driver is stopping")
	return err
}
