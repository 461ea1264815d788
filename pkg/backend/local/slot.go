package local

import (
	"context"
	"fmt"
	"slices"
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
	missed trouble       // what the administrator was told of it
	failed error         // why an open pool cannot be used; see setFailed
}

func (s *slot) get() (*pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		// Only as text: whatever sentinel the reason wraps, to the caller the pool is
		// away. A "not found" in it would make a delete succeed.
		return nil, fmt.Errorf("%w: pool %s (%s): %v", volume.ErrUnavailable, s.cfg.Name, s.cfg.Dir, s.reason)
	}
	if s.failed != nil {
		return nil, fmt.Errorf("%w: pool %s (%s): %v", volume.ErrUnavailable, s.cfg.Name, s.cfg.Dir, s.failed)
	}
	return s.pool, nil
}

// opened is the pool, also one that has failed; nil if it is not open.
func (s *slot) opened() *pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool
}

// setFailed says why the filesystem of an open pool is dead, or that it is not. Such
// a pool is unavailable to calls and stays open: what is attached from it goes on as
// it can, and nothing is closed that a call may still hold.
func (s *slot) setFailed(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = why
}

// failure is what setFailed was told last.
func (s *slot) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *slot) describe() volume.Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := volume.Pool{ID: s.id, Name: s.cfg.Name, Available: s.pool != nil && s.failed == nil}
	switch {
	case s.pool == nil:
		out.Reason = s.reason.Error()
	case s.failed != nil:
		out.Reason = s.failed.Error()
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
	o := opening{
		first: s.id == "",
		late:  s.backend.started.Load(), // before anybody can see the id
	}
	if id != "" {
		s.id = id
	}
	if err != nil {
		known, news := s.id != "", s.missed.isNews(err, time.Now())
		s.reason = err
		s.mu.Unlock()
		if news {
			s.tellMissing(err, known)
		}
		return
	}
	o.missed = s.missed != trouble{}
	s.pool, s.reason, s.missed, s.failed = p, nil, trouble{}, nil
	s.mu.Unlock()
	s.tellOpened(o)
}

func (s *slot) tellMissing(err error, known bool) {
	text := "it is not known from before, other pools go on; it is tried every %s"
	if known {
		text = "its volumes and their data are left as they are, other pools go on; it is tried every %s and used as soon as it is back, without a restart"
	}
	s.backend.notice(PoolMissing, "pool %s (%s) cannot be used: %v; "+text, s.cfg.Name, s.cfg.Dir, err, retryInterval)
}

// opening is how a pool came to be open.
type opening struct {
	first  bool // it was not known before
	late   bool // start-up had ended
	missed bool // the administrator was told that it was away
}

// tellOpened tells of a pool that was not there from the start. A node without any
// pool has not been registered with kubelet, which then learns of the first one in
// time.
func (s *slot) tellOpened(o opening) {
	switch {
	case o.first && o.late && s.backend.knowsOther(s):
		s.backend.notice(PoolNew, "pool %s (%s) was opened for the first time after the driver had started; kubelet learns of it when the driver's pod is restarted, and claims in it stay Pending until then: restart the driver's pod", s.cfg.Name, s.cfg.Dir)
	case o.first && o.missed:
		s.backend.notice(PoolBack, "pool %s (%s) could be opened now, for the first time, and is used", s.cfg.Name, s.cfg.Dir)
	case o.missed:
		s.backend.notice(PoolBack, "pool %s (%s) is back and used again", s.cfg.Name, s.cfg.Dir)
	}
}

// knowsOther says whether any pool but that of s is known.
func (b *Backend) knowsOther(s *slot) bool {
	return slices.ContainsFunc(b.slots, func(o *slot) bool { return o != s && o.describe().ID != "" })
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

// measureInterval is how often charges are measured in the background.
const measureInterval = 30 * time.Second

// runMeasure lowers charges as volumes come to own what they overwrite.
func (s *slot) runMeasure(ctx context.Context) {
	tick := time.NewTicker(measureInterval)
	defer tick.Stop()
	var told trouble
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p, err := s.get()
		if err != nil {
			continue
		}
		if err := p.measureSoon(ctx); err != nil && told.isNews(err, time.Now()) {
			s.backend.notice(PoolUnmeasured, "pool %s: %v; such a volume is charged with its whole size until that works", p.name, err)
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
