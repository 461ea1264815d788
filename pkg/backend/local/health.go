package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A look at the machine finds what is wrong with pools and volumes. It is taken
// every lookInterval, and costs one list of mounts and one of loop devices however
// many volumes there are, a stat(2) for each volume, and an open(2) for each that
// is mounted. What it found is what lists and metrics answer from, so that no
// scrape waits for a disk; a question about one volume looks at that one anew.

const (
	// lookInterval is the time between two looks; it varies by a fifth.
	lookInterval = 30 * time.Second
	// leastRest is the least time before a look that was brought forward.
	leastRest = 500 * time.Millisecond
	// lookWait bounds how long a look waits for a disk that does not answer.
	lookWait = 10 * time.Second
	// askWait is the same for a question about one volume.
	askWait = 5 * time.Second
)

// health is what was found last. It has no lock order: nothing is called while mu
// is held.
type health struct {
	mu    sync.Mutex
	pools map[string]*examination // by name; one for each slot
	told  map[toldKey]bool
	small map[volume.ID]time.Time // since when a device is smaller than its volume
	// trying are the loop devices whose filesystem is being tried; see refuses.
	trying map[int]bool
	asked  map[volume.ID]*question
	// soon wakes watchHealth before its time.
	soon chan struct{}

	around around
}

// examination is the last look at one pool, and the one that is under way.
type examination struct {
	found   backend.PoolStats
	running time.Time // since when; zero if none
}

func newHealth(slots []*slot) *health {
	h := &health{pools: map[string]*examination{}, told: map[toldKey]bool{}, small: map[volume.ID]time.Time{}, trying: map[int]bool{}, asked: map[volume.ID]*question{}, soon: make(chan struct{}, 1)}
	for _, s := range slots {
		h.pools[s.cfg.Name] = &examination{}
	}
	return h
}

// watchHealth looks again and again until ctx ends.
func (b *Backend) watchHealth(ctx context.Context) {
	for {
		b.look(ctx)
		b.tellHealth()
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookInterval*4/5 + rand.N(lookInterval*2/5)):
		case <-b.health.soon:
			// Not at once again: a pool that stays bad has many callers.
			select {
			case <-ctx.Done():
				return
			case <-time.After(leastRest):
			}
		}
	}
}

// suspect has the next look taken soon, if an error is one that a dead filesystem
// answers with.
func (b *Backend) suspect(err error) {
	if filesystem.IsDead(err) || errors.Is(err, unix.EROFS) {
		b.health.lookSoon()
	}
}

// lookSoon brings the next look forward.
func (h *health) lookSoon() {
	select {
	case h.soon <- struct{}{}:
	default: // it was asked for already
	}
}

// isNews says whether a volume is well where it was not at the last look, or the
// other way round.
func (h *health) isNews(id volume.ID, pool string, well bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.pools[pool].found.Volumes {
		if v.ID == id {
			return (len(v.Conditions) == 0) != well
		}
	}
	return !well
}

// look examines all pools. It returns when that is done, or would take too long: one
// that does not answer goes on alone, and is not asked again before it did.
func (b *Backend) look(ctx context.Context) {
	var group sync.WaitGroup
	for _, s := range b.slots {
		if !b.health.begin(s.cfg.Name, time.Now()) {
			continue
		}
		group.Go(func() { b.health.end(s.cfg.Name, b.examine(s)) })
	}
	all := make(chan struct{})
	go func() {
		group.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-ctx.Done():
	case <-time.After(lookWait):
	}
}

// begin says that a look at a pool begins; it is false while one is under way.
func (h *health) begin(pool string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.pools[pool]
	if !e.running.IsZero() {
		return false
	}
	e.running = now
	return true
}

func (h *health) end(pool string, found backend.PoolStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pools[pool].found, h.pools[pool].running = found, time.Time{}
}

// last is what was found of a pool, with how long a look is under way.
func (h *health) last(pool string, now time.Time) (found backend.PoolStats, waiting time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.pools[pool]
	if !e.running.IsZero() {
		waiting = now.Sub(e.running)
	}
	return e.found, waiting
}

// forget takes a volume that was deleted out of what was found.
func (h *health) forget(id volume.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.small, id)
	for _, e := range h.pools {
		// A copy: what was given out is not changed.
		e.found.Volumes = slices.DeleteFunc(slices.Clone(e.found.Volumes), func(v backend.VolumeStats) bool { return v.ID == id })
	}
}

// Stats are the pools in figures, as of the last look, in the order of Pools. It is
// answered from memory.
func (b *Backend) Stats() []backend.PoolStats {
	now := time.Now()
	var out []backend.PoolStats
	for _, s := range b.slots {
		found, waiting := b.health.last(s.cfg.Name, now)
		found.Pool = s.describe()
		found.Overcommit = b.cfg.Overcommit
		found.Counters = b.tallies[s.cfg.Name].read()
		if !found.Available && found.Reason != "" {
			found.Conditions = withCondition(found.Conditions, unavailable(found.Pool))
		}
		if waiting > lookWait {
			found.Conditions = withCondition(found.Conditions, silent(waiting))
		}
		out = append(out, found)
	}
	return out
}

// unavailable is the condition of a pool that is not available, unless the last look
// said why.
func unavailable(p volume.Pool) volume.Condition {
	return condition(volume.Inaccessible, PoolMissing, "%s", p.Reason)
}

func silent(waiting time.Duration) volume.Condition {
	return condition(volume.Inaccessible, PoolSilent, "its disk has not answered for %s; look into the kernel's log", waiting.Round(time.Second))
}

func condition(severity volume.Severity, reason Reason, format string, args ...any) volume.Condition {
	return volume.Condition{Severity: severity, Reason: string(reason), Message: fmt.Sprintf(format, args...)}
}

// withCondition adds a condition that makes a pool inaccessible, unless there is one
// already. It changes nothing that was given out.
func withCondition(list []volume.Condition, c volume.Condition) []volume.Condition {
	if slices.ContainsFunc(list, func(have volume.Condition) bool { return have.Severity == c.Severity }) {
		return list
	}
	return volume.Conditions(append(slices.Clone(list), c))
}

// StorageHealth implements backend.Attacher.
func (b *Backend) StorageHealth(context.Context) ([]volume.PoolHealth, error) {
	var out []volume.PoolHealth
	for _, st := range b.Stats() {
		out = append(out, volume.PoolHealth{Pool: st.Pool, Conditions: st.Conditions})
	}
	return out, nil
}

// Unhealthy implements backend.Provisioner.
func (b *Backend) Unhealthy(context.Context) ([]volume.Health, error) {
	var out []volume.Health
	for _, st := range b.Stats() {
		// What makes the pool inaccessible makes its volumes so.
		var ofPool []volume.Condition
		for _, c := range st.Conditions {
			if c.Severity == volume.Inaccessible {
				ofPool = append(ofPool, c)
			}
		}
		for _, v := range st.Volumes {
			if all := volume.Conditions(append(slices.Clone(v.Conditions), ofPool...)); len(all) > 0 {
				out = append(out, volume.Health{ID: v.ID, Conditions: all})
			}
		}
	}
	slices.SortFunc(out, func(a, b volume.Health) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Headroom implements backend.Attacher.
func (b *Backend) Headroom(id volume.ID) (volume.Bytes, bool) {
	if b.cfg.Overcommit <= 1 {
		return 0, false
	}
	for _, s := range b.slots {
		if s.describe().ID != id.Pool() {
			continue
		}
		found, _ := b.health.last(s.cfg.Name, time.Now())
		return found.Free, !found.Looked.IsZero()
	}
	return 0, false
}

// Health implements backend.Provisioner and backend.Attacher.
func (b *Backend) Health(ctx context.Context, id volume.ID) ([]volume.Condition, error) {
	if _, err := volume.ParseID(volume.KindVolume, string(id)); err != nil {
		return nil, err
	}
	for _, s := range b.slots {
		info := s.describe()
		if info.ID != id.Pool() {
			continue
		}
		p := s.opened()
		if p == nil {
			return []volume.Condition{unavailable(info)}, nil
		}
		return b.ask(ctx, p, info, id)
	}
	return nil, fmt.Errorf("%w: pool %s of %s is not on this machine; if its disk was moved here, start the driver with --pool for it", volume.ErrUnavailable, id.Pool(), id)
}

func (p *pool) healthOf(id volume.ID) ([]volume.Condition, error) {
	around, err := p.backend.health.around.recent()
	if err != nil {
		return nil, err
	}
	st, err := p.examineVolume(id, around)
	if err != nil || len(st.Conditions) == 0 {
		return st.Conditions, err
	}
	// The list of devices may be older than the volume's file.
	if around, err = p.backend.health.around.now(); err != nil {
		return nil, err
	}
	st, err = p.examineVolume(id, around)
	return st.Conditions, err
}
