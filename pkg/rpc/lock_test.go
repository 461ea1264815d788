package rpc

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

type named string

func (n named) String() string { return string(n) }

func exclusive(name string) []key { return []key{{domain: domainVolume, name: name}} }

func sharedKey(name string) []key { return shared(exclusive(name)) }

func wants(who string, keys ...[]key) *claim {
	return &claim{keys: join(keys...), holder: named(who)}
}

// take acquires what must be free.
func take(t *testing.T, l *locks, c *claim) *claim {
	t.Helper()
	if err := l.acquire(context.Background(), c, 0); err != nil {
		t.Fatalf("%s: %v", c.holder, err)
	}
	return c
}

func wantEmpty(t *testing.T, l *locks) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held) != 0 || len(l.queue) != 0 {
		t.Errorf("left behind: %d locks, %d waiters", len(l.held), len(l.queue))
	}
}

func TestSharedHoldersMeetAndExclusiveOnesDoNot(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second *claim
		together      bool
	}{
		{"shared and shared", wants("a", sharedKey("v")), wants("b", sharedKey("v")), true},
		{"shared and exclusive", wants("a", sharedKey("v")), wants("b", exclusive("v")), false},
		{"exclusive and shared", wants("a", exclusive("v")), wants("b", sharedKey("v")), false},
		{"exclusive and exclusive", wants("a", exclusive("v")), wants("b", exclusive("v")), false},
		{"different objects", wants("a", exclusive("v")), wants("b", exclusive("w")), true},
		{"same name in another domain", wants("a", exclusive("v")), wants("b", []key{{domain: domainSnapshot, name: "v"}}), true},
		{"one of several in common", wants("a", exclusive("v"), exclusive("w")), wants("b", exclusive("w"), exclusive("x")), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLocks()
			take(t, l, c.first)
			err := l.acquire(t.Context(), c.second, 0)
			if together := err == nil; together != c.together {
				t.Errorf("together: %v (%v)", together, err)
			}
			if err != nil && (!errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "a; try again")) {
				t.Errorf("the error does not name the holder: %v", err)
			}
			l.release(c.first)
			if err == nil {
				l.release(c.second)
			}
			wantEmpty(t, l)
		})
	}
}

func TestClaimForOneObjectTwiceIsExclusive(t *testing.T) {
	l := newLocks()
	c := take(t, l, wants("clone of itself", sharedKey("v"), exclusive("v")))
	if err := l.acquire(t.Context(), wants("b", sharedKey("v")), 0); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("got %v", err)
	}
	l.release(c)
	wantEmpty(t, l)
}

func TestWaiterGetsTheLockWhenItIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocks()
		holder := take(t, l, wants("holder", exclusive("v")))
		go func() {
			time.Sleep(900 * time.Millisecond)
			l.release(holder)
		}()
		start := time.Now()
		c := wants("waiter", exclusive("v"))
		if err := l.acquire(t.Context(), c, time.Second); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited != 900*time.Millisecond {
			t.Errorf("waited %s", waited)
		}
		l.release(c)
		wantEmpty(t, l)
	})
}

func TestPatienceAndContextEndTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocks()
		holder := take(t, l, wants("holder", exclusive("v")))
		start := time.Now()
		if err := l.acquire(t.Context(), wants("a", exclusive("v")), time.Second); !errors.Is(err, volume.ErrBusy) || time.Since(start) != time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		start = time.Now()
		if err := l.acquire(ctx, wants("b", exclusive("v")), time.Second); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 300*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		l.release(holder)
		wantEmpty(t, l)
	})
}

func TestExclusiveWaiterIsNotStarvedBySharedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocks()
		ctx, stop := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		// Each holds for 100 ms and they overlap, so that the lock is never free.
		for i := range 4 {
			readers.Go(func() {
				time.Sleep(time.Duration(i) * 25 * time.Millisecond)
				for ctx.Err() == nil {
					c := wants("reader", sharedKey("v"))
					if err := l.acquire(context.Background(), c, time.Second); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(100 * time.Millisecond)
					l.release(c)
				}
			})
		}
		time.Sleep(time.Second)
		start := time.Now()
		c := wants("writer", exclusive("v"))
		if err := l.acquire(t.Context(), c, time.Second); err != nil || time.Since(start) > 100*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		} else {
			l.release(c)
		}
		stop()
		readers.Wait()
		wantEmpty(t, l)
	})
}

func TestWaiterBehindAWaiterIsServedBeforeItIsTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocks()
		reader := take(t, l, wants("long reader", sharedKey("v")))
		writer := make(chan error, 1)
		go func() { writer <- l.acquire(t.Context(), wants("writer", exclusive("v")), time.Minute) }()
		synctest.Wait()
		c := wants("short reader", sharedKey("v"))
		if err := l.acquire(t.Context(), c, time.Second); err != nil {
			t.Errorf("turned away although nobody holds what it wants: %v", err)
		}
		l.release(c)
		l.release(reader)
		if err := <-writer; err != nil {
			t.Error(err)
		}
	})
}

func TestWaiterThatGivesUpFreesThoseBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocks()
		reader := take(t, l, wants("reader", sharedKey("v")))
		go func() { _ = l.acquire(t.Context(), wants("writer", exclusive("v")), 500*time.Millisecond) }()
		synctest.Wait()
		start := time.Now()
		c := wants("second reader", sharedKey("v"))
		if err := l.acquire(t.Context(), c, time.Hour); err != nil || time.Since(start) != 500*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		l.release(c)
		l.release(reader)
		wantEmpty(t, l)
	})
}

// TestRandomClaimsNeverOverlap checks exclusion, progress and cleanliness under
// claims of random sets of locks, some of which give up.
func TestRandomClaimsNeverOverlap(t *testing.T) {
	const objects, workers, rounds = 6, 16, 400
	l := newLocks()
	var readers, writers [objects]atomic.Int32
	var granted atomic.Int32
	names := [objects]string{"a", "b", "c", "d", "e", "f"}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(w)))
			for range rounds {
				want := map[int]bool{} // value: shared
				for range 1 + random.IntN(3) {
					want[random.IntN(objects)] = random.IntN(2) == 0
				}
				var keys []key
				for o, isShared := range want {
					keys = append(keys, key{domain: domainVolume, name: names[o], shared: isShared})
				}
				ctx, cancel := context.WithCancel(context.Background())
				if random.IntN(8) == 0 {
					cancel()
				}
				patience := time.Duration(random.IntN(3)) * 50 * time.Millisecond
				c := &claim{keys: keys, holder: named("worker")}
				if err := l.acquire(ctx, c, patience); err != nil {
					cancel()
					continue
				}
				cancel()
				granted.Add(1)
				for o, isShared := range want {
					if isShared {
						readers[o].Add(1)
					} else if writers[o].Add(1) != 1 {
						t.Errorf("two writers of %s", names[o])
					}
				}
				for o, isShared := range want {
					if isShared && writers[o].Load() != 0 || !isShared && readers[o].Load() != 0 {
						t.Errorf("reader and writer of %s together", names[o])
					}
				}
				for o, isShared := range want {
					if isShared {
						readers[o].Add(-1)
					} else {
						writers[o].Add(-1)
					}
				}
				l.release(c)
			}
		})
	}
	all.Wait()
	wantEmpty(t, l)
	if n := granted.Load(); n < workers*rounds/2 {
		t.Errorf("only %d of %d claims were granted", n, workers*rounds)
	}
}
