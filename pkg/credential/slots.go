package credential

import (
	"context"
	"slices"
	"sync"
)

const (
	// maxAtOnce is how many requests to one service run at a time, but for the first of
	// each namespace.
	maxAtOnce = 16
	// maxOfTenant is how many of them are for pods of one namespace.
	maxOfTenant = 8
)

// slots bounds how many requests run at a time. A tenant, which is a namespace, always
// may have one, so that nobody ever waits for another tenant's: requests that hang
// take up to ten seconds each, and one tenant may have hundreds of them. What is more
// than that goes to the tenant that has the fewest. The zero value has nobody in it.
type slots struct {
	mu      sync.Mutex
	all     int            // how many run
	of      map[string]int // how many of each tenant
	waiting []*waiter      // the longest first
}

type waiter struct {
	tenant string
	let    chan struct{} // closed when it may
}

// enter waits until the tenant may make a request, or ctx ends. Then leave is called
// once, unless there was an error.
func (s *slots) enter(ctx context.Context, tenant string) error {
	w := &waiter{tenant, make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.admitLocked()
	s.mu.Unlock()
	select {
	case <-w.let:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, w)
	if i < 0 { // it was let in just now
		s.leaveLocked(tenant)
	} else {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	return ctx.Err()
}

func (s *slots) leave(tenant string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked(tenant)
}

func (s *slots) leaveLocked(tenant string) {
	s.all--
	if s.of[tenant]--; s.of[tenant] == 0 {
		delete(s.of, tenant)
	}
	s.admitLocked()
}

// admitLocked lets in those who may, the tenant with the fewest requests first.
func (s *slots) admitLocked() {
	for {
		best := -1
		for i, w := range s.waiting {
			n := s.of[w.tenant]
			may := n == 0 || n < maxOfTenant && s.all < maxAtOnce
			if may && (best < 0 || n < s.of[s.waiting[best].tenant]) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		w := s.waiting[best]
		s.waiting = slices.Delete(s.waiting, best, best+1)
		if s.of == nil {
			s.of = map[string]int{}
		}
		s.of[w.tenant]++
		s.all++
		close(w.let)
	}
}
