package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// guard keeps writers from meeting a full pool. It measures the space, the more
// often the less there is, and freezes the filesystems of the pool before it runs
// out: their writers wait, and what waits in memory has been written. It thaws them
// when there is space again. With bounded dirty memory (dirtyLimit), what the freeze
// itself writes fits into the reserve.
//
// While nothing is overcommitted it is a safety net: as long as the promises hold,
// what the volumes may need is covered, and the guard does not act. It does when
// something else fills the pool's disk, and thaws as soon as they hold again.
//
// Each volume is frozen and thawed in a goroutine of its own, at most one at a
// time: a filesystem that is slow to freeze must not hold up the others. A step
// that fails is made again at the next look. See ward for what is known of each.
type guard struct {
	pool *pool
	wake chan struct{} // a volume was attached
	trim chan struct{} // what is deleted inside volumes should be given back now

	// mu is never held while something is measured, frozen or thawed.
	mu      sync.Mutex
	wards   map[volume.ID]*ward
	changes int          // counts wards that came or went
	frozen  bool         // what the guard wants now
	since   time.Time    // of frozen
	reserve volume.Bytes // the last one
	blocks  volume.Bytes // what of it is for block volumes

	over bool // more is owed than is covered, as judged last

	// The rest is only used by watch.
	overAt   time.Time    // when over was judged
	speed    volume.Bytes // the fastest that the space was seen to shrink, a second
	pace     volume.Bytes // between the last two samples, a second
	sample   volume.Bytes // what was free at sampled
	sampled  time.Time
	owes     appetite
	owesAt   time.Time
	seenAt   time.Time // when the loop devices were looked at
	measured time.Time // when the charges were measured for us
	adopted  bool      // frozen by the driver before us
	low      bool      // the watermark is crossed
	breaths  int       // since it is frozen
	breathAt time.Time // the next one
	told     trouble
}

func newGuard(p *pool) *guard {
	return &guard{pool: p, wake: make(chan struct{}, 1), trim: make(chan struct{}, 1), wards: map[volume.ID]*ward{}, speed: leastSpeed}
}

// runGuard guards the slot's pool until ctx ends. Whatever is near to full then is
// frozen, for nobody watches it until the next driver does.
func (s *slot) runGuard(ctx context.Context) {
	for {
		wait := retryInterval
		p, err := s.get()
		var wake <-chan struct{}
		if err == nil {
			wait, wake = p.guard.watch(ctx), p.guard.wake
		} else if dead := s.opened(); dead != nil {
			dead.guard.giveUp(ctx)
			wait = watchIdle
		}
		select {
		case <-ctx.Done():
			if err == nil {
				p.guard.leave()
			}
			return
		case <-time.After(wait):
		case <-wake:
			p.guard.owesAt = time.Time{} // it knows nothing of that volume
		}
	}
}

// giveUp thaws what is frozen of a pool that is dead: nothing that is written gets
// there any more, so nothing is kept by waiting, and a writer that waits cannot even
// be killed. If the pool comes back, watch decides anew.
func (g *guard) giveUp(ctx context.Context) {
	if was, since := g.want(false, 0); was {
		g.adopted = false
		b := g.pool.backend
		b.health.lookSoon()
		b.notice(GuardThawed, "pool %s cannot be written to any more; its filesystems, frozen for %s because it was full, are thawed, and their writers meet errors", g.pool.name, time.Since(since).Round(time.Millisecond))
	}
	g.tend(ctx, 0, 0, false)
}

// lookAgain is how often the loop devices of the machine are looked at for volumes
// of the pool that somebody else attached or let go.
const lookAgain = 5 * time.Second

// watch looks once and does what must be done, and says when to look again.
func (g *guard) watch(ctx context.Context) time.Duration {
	now := time.Now()
	if now.Sub(g.seenAt) > lookAgain {
		switch done, err := g.lookAround(ctx); {
		case err != nil:
			g.tell(err)
		case done:
			g.seenAt = now
		}
	}
	g.askOwed(ctx, now)
	// The needs before the space: what a block volume writes between the two then
	// counts twice. The other way round it would count as neither needed nor taken,
	// and a full pool would be thawed.
	needsErr := g.askNeeds(now, false)
	sp, err := g.pool.store.space()
	if err != nil {
		g.tell(errors.Join(needsErr, fmt.Errorf("measure the space: %w; as long as this lasts nothing is frozen or thawed", err)))
		return watchNear
	}
	now = time.Now()
	g.follow(sp, now)
	reserve, _ := g.lastReserve()
	if err = needsErr; err == nil {
		sp, reserve, err = g.judge(ctx, sp, now)
	}
	if err != nil {
		g.tell(err)
	}
	g.tend(ctx, sp.Cover, reserve, g.mayBreathe(sp, reserve, now))
	g.noticeLevel(sp)
	if g.isFrozen() {
		return frozenTick
	}
	return watchAgain(sp.Cover, reserve, g.speed)
}

// frozenTick is how often the guard looks for space that has returned.
const frozenTick = 50 * time.Millisecond

func (g *guard) tell(err error) {
	g.pool.backend.suspect(err)
	if g.told.isNews(err, time.Now()) {
		g.pool.backend.notice(GuardFailed, "pool %s: guard against a full pool: %v", g.pool.name, err)
	}
}

// follow learns how fast the pool fills. What was seen is forgotten by half in a
// minute.
func (g *guard) follow(sp space, now time.Time) {
	passed := now.Sub(g.sampled)
	if passed < speedSample {
		return
	}
	if !g.sampled.IsZero() {
		seen := volume.Bytes(float64(g.sample-sp.Free) / passed.Seconds())
		forgotten := volume.Bytes(float64(g.speed) * (1 - min(passed.Seconds()/120, 0.5)))
		// What is seen once is no speed: btrfs allocates a chunk, a file is
		// preallocated.
		g.speed = min(max(leastSpeed, forgotten, min(seen, g.pace)), 8*leastSpeed)
		g.pace = seen
	}
	g.sample, g.sampled = sp.Free, now
}

const speedSample = 100 * time.Millisecond

// judge says how large the reserve is now, and decides. If that took long it says
// how much space there is after it.
func (g *guard) judge(ctx context.Context, sp space, now time.Time) (space, volume.Bytes, error) {
	over := g.pool.overpromised()
	reserve := g.owes.reserve(g.speed, over)
	if g.isFrozen() {
		if sp.Cover >= g.enough(reserve, over) {
			g.set(false, sp, reserve)
		}
		return sp, reserve, nil
	}
	if sp.Cover < reserve && !over {
		// Charges are upper bounds, and what was freed counts only from the next
		// commit on. Before promises that should hold are a reason to stop anybody,
		// both are made good. One who overcommits cannot wait for that.
		if now.Sub(g.measured) < measureRest {
			return sp, reserve, nil
		}
		if err := errors.Join(g.pool.store.commit(), g.pool.measureAll(ctx)); err != nil {
			return sp, reserve, err
		}
		g.measured = time.Now()
		if err := g.askNeeds(g.measured, true); err != nil {
			return sp, reserve, err
		}
		again, err := g.pool.store.space()
		if err != nil {
			return sp, reserve, fmt.Errorf("measure the space: %w", err)
		}
		sp, reserve = again, g.owes.reserve(g.speed, over)
	}
	g.set(sp.Cover < reserve, sp, reserve)
	return sp, reserve, nil
}

// enough is how much must be covered before what is frozen is thawed.
func (g *guard) enough(reserve volume.Bytes, over bool) volume.Bytes {
	switch {
	case !over: // the promises hold again, which may be all that a full pool ever has
		return reserve
	case g.adopted: // it may have been frozen only because its driver stopped
		return reserve
	case reserve == 0: // nobody is left who could write
		return 0
	}
	return thawAbove(reserve)
}

// mayBreathe says whether the frozen filesystems are to be thawed for an instant
// now. A process that waits for a frozen filesystem cannot be killed, and a pod that
// cannot end cannot be deleted to make room. In a breath each writer ends the call
// that it waits in, and one that was killed ends. That takes space, so there are
// fewer and fewer of them, and none once half of the reserve is used up.
func (g *guard) mayBreathe(sp space, reserve volume.Bytes, now time.Time) bool {
	if !g.isFrozen() {
		g.breaths, g.breathAt = 0, time.Time{}
		return false
	}
	if g.breathAt.IsZero() {
		g.breathAt = now.Add(firstBreath)
	}
	if now.Before(g.breathAt) || sp.Cover < reserve/2 {
		return false
	}
	g.breaths++
	g.breathAt = now.Add(min(firstBreath<<min(g.breaths, 10), lastBreath))
	return true
}

// A breath after ten seconds, then after twice as long each time.
const (
	firstBreath = 10 * time.Second
	lastBreath  = 10 * time.Minute
)

// measureRest is how often the charges of a pool that overcommits nothing are
// measured to see whether its promises still hold.
const measureRest = 500 * time.Millisecond

// needsAgain is how old the needs may be that a decision is made with. Within this
// time they only fall, but for what was just admitted.
const needsAgain = 250 * time.Millisecond

func (g *guard) askNeeds(now time.Time, again bool) error {
	if !again && now.Sub(g.owesAt) < needsAgain {
		return nil
	}
	owes, err := g.pool.appetite(g.ids())
	if err != nil {
		return err
	}
	g.owes, g.owesAt = owes, now
	return nil
}

// isFrozen says whether the guard has stopped the pool's writers.
func (g *guard) isFrozen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.frozen
}

// lastReserve is the reserve as it was judged last, and what of it is for block
// volumes.
func (g *guard) lastReserve() (reserve, blocks volume.Bytes) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reserve, g.blocks
}

// want is whether the pool's filesystems are to be frozen; tend does it. It says
// what was wanted before, and since when they were frozen.
func (g *guard) want(frozen bool, reserve volume.Bytes) (was bool, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was, since = g.frozen, g.since
	g.frozen, g.reserve, g.blocks = frozen, reserve, min(g.owes.blocks, reserve)
	if frozen && !was {
		g.since = time.Now()
	}
	return was, since
}

// set is want, and tells what changes.
func (g *guard) set(frozen bool, sp space, reserve volume.Bytes) {
	was, since := g.want(frozen, reserve)
	b, p := g.pool.backend, g.pool
	if frozen != was {
		b.health.lookSoon()
	}
	switch {
	case frozen && !was:
		g.askTrim()
		b.notice(GuardFroze, "pool %s is full: %s can still be written and a reserve of %s is needed, so its mounted filesystems are frozen; their writers wait and nothing is lost; delete snapshots or volumes, or enlarge the pool, and they go on",
			p.name, sp.Cover, reserve)
	case !frozen && was:
		g.adopted = false
		b.notice(GuardThawed, "pool %s has room for %s again; its filesystems are thawed after %s", p.name, sp.Cover, time.Since(since).Round(time.Millisecond))
	}
}

// leave is called when nobody will watch the pool until the next driver does. If it
// is near to full its writers wait that long: frozen they lose nothing.
func (g *guard) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
	defer cancel()
	sp, err := g.pool.store.space()
	if err != nil || !g.pool.overpromised() || g.isFrozen() {
		return
	}
	reserve := g.owes.reserve(g.speed, true)
	if !isNear(sp.Cover, reserve) {
		return
	}
	g.want(true, reserve)
	g.pool.backend.notice(GuardFroze, "pool %s is nearly full and this driver stops: with room for %s its mounted filesystems are frozen until the next driver watches it", g.pool.name, sp.Cover)
	for ctx.Err() == nil && !g.allFrozen() {
		g.tend(ctx, sp.Cover, reserve, false)
		time.Sleep(watchNear)
	}
}

// leaveWait bounds how long a stop waits for filesystems to freeze.
const leaveWait = 5 * time.Second

func (g *guard) allFrozen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, w := range g.wards {
		if w.busy || !w.frozen && g.owes.frozen[id] > 0 && w.root != nil {
			return false
		}
	}
	return true
}

// guardTrouble tells of a volume that could not be frozen or thawed.
func (b *Backend) guardTrouble(pool string, err error) {
	b.mu.Lock()
	news := b.guardTold.isNews(err, time.Now())
	b.mu.Unlock()
	if news {
		b.notice(GuardFailed, "pool %s: guard against a full pool: %v; it is tried again", pool, err)
	}
}

// endGuard lets the guard of a volume's pool go of it. If the pool is away nobody
// guards; what was left frozen by whoever did is thawed, for it has no writers any
// more.
func (b *Backend) endGuard(ctx context.Context, id volume.ID, d *loop.Device) error {
	if p, err := b.poolOf(volume.KindVolume, id); err == nil {
		return p.guard.letGo(ctx, id, d)
	}
	guarded, err := b.marks.has(id)
	if err != nil || !guarded {
		return err
	}
	if d != nil {
		if mounted, err := isMounted(d); mounted || err != nil {
			return err
		}
		if _, err := thawVolume(ctx, id, ""); err != nil {
			return err
		}
	}
	return b.marks.remove(id)
}

// close lets go of the filesystems that the guard has opened. What is frozen stays
// so, and marked, for the next driver.
func (g *guard) close() error {
	g.mu.Lock()
	ids := make([]volume.ID, 0, len(g.wards))
	for id := range g.wards {
		ids = append(ids, id)
	}
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
	defer cancel()
	var errs []error
	for _, id := range ids {
		w, err := g.seize(ctx, id)
		if err != nil {
			errs = append(errs, err) // it hangs in the kernel, and goes with the process
			continue
		}
		if w == nil || w.root == nil {
			continue
		}
		if w.frozen {
			errs = append(errs, w.root.Close())
			w.root = nil
			continue
		}
		errs = append(errs, g.shut(w))
	}
	return errors.Join(errs...)
}
