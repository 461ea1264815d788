package rpc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// locks is a set of read-write locks that exist only while somebody holds or
// wants them.
//
// A claim gets all its locks at one instant or none of them. So there is no
// order in which locks are taken, no lock is held while waiting for another one,
// and no deadlock: a child can never be locked without its source.
//
// Claims are served in order of arrival: a claim that conflicts with an earlier
// one that waits, waits behind it, so that an exclusive claim is not starved by
// shared ones. Only when its patience ends is a claim served out of turn, if
// nobody holds what it wants.
type locks struct {
	mu    sync.Mutex
	held  map[lockName]*lock
	queue []*claim
}

// lockName identifies a lock.
type lockName struct {
	domain domain
	name   string
}

// lock is a lock that is held: by one exclusive holder or by shared ones.
type lock struct {
	exclusive bool
	holders   []*claim
}

// claim is a wish for locks, then the fact of holding them.
type claim struct {
	keys    []key
	holder  fmt.Stringer // who it is, for the one that is turned away
	granted chan struct{}
}

func newLocks() *locks { return &locks{held: map[lockName]*lock{}} }

// acquire takes all locks of c, which release gives back. If that is not
// possible within patience it is ErrBusy with the holder named; if ctx ends
// before, the error of ctx.
func (l *locks) acquire(ctx context.Context, c *claim, patience time.Duration) error {
	c.granted = make(chan struct{})
	l.mu.Lock()
	l.queue = append(l.queue, c)
	l.serveLocked()
	l.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	var cause error
	select {
	case <-c.granted:
		return nil
	case <-ctx.Done():
		cause = ctx.Err()
	case <-timer.C:
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-c.granted:
		return nil
	default:
	}
	l.queue = slices.DeleteFunc(l.queue, func(q *claim) bool { return q == c })
	blocker := l.blockerLocked(c)
	if cause == nil && blocker == nil {
		l.takeLocked(c)
		return nil
	}
	// Those behind it may have waited for nothing but this claim.
	l.serveLocked()
	if cause != nil {
		return cause
	}
	return fmt.Errorf("%w: %s; try again when it has ended", volume.ErrBusy, blocker.holder)
}

// release gives back the locks of a claim that was granted.
func (l *locks) release(c *claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range c.keys {
		name := lockName{k.domain, k.name}
		held := l.held[name]
		held.holders = slices.DeleteFunc(held.holders, func(h *claim) bool { return h == c })
		if len(held.holders) == 0 {
			delete(l.held, name)
		}
	}
	l.serveLocked()
}

// serveLocked grants every waiting claim that conflicts neither with a holder
// nor with a claim that has waited longer.
func (l *locks) serveLocked() {
	ahead := map[lockName]bool{} // value: somebody ahead wants it for himself
	l.queue = slices.DeleteFunc(l.queue, func(c *claim) bool {
		inTurn := true
		for _, k := range c.keys {
			if exclusive, wanted := ahead[lockName{k.domain, k.name}]; wanted && (exclusive || !k.shared) {
				inTurn = false
			}
		}
		if inTurn && l.blockerLocked(c) == nil {
			l.takeLocked(c)
			return true
		}
		for _, k := range c.keys {
			name := lockName{k.domain, k.name}
			ahead[name] = ahead[name] || !k.shared
		}
		return false
	})
}

// blockerLocked is a holder of a lock that c cannot have at the same time, or
// nil.
func (l *locks) blockerLocked(c *claim) *claim {
	for _, k := range c.keys {
		if held := l.held[lockName{k.domain, k.name}]; held != nil && (held.exclusive || !k.shared) {
			return held.holders[0]
		}
	}
	return nil
}

func (l *locks) takeLocked(c *claim) {
	for _, k := range c.keys {
		name := lockName{k.domain, k.name}
		held := l.held[name]
		if held == nil {
			held = &lock{exclusive: !k.shared}
			l.held[name] = held
		}
		held.holders = append(held.holders, c)
	}
	close(c.granted)
}
