package credential

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// hold has a slot for a while.
func (s *slots) hold(t *testing.T, tenant string, long time.Duration) {
	if err := s.enter(t.Context(), tenant); err != nil {
		t.Error(err)
		return
	}
	time.Sleep(long)
	s.leave(tenant)
}

// TestNobodyWaitsForTheRequestsOfAnotherTenant: a hundred requests of each of three
// tenants hang for ten seconds each; another tenant makes ten that take a second.
func TestNobodyWaitsForTheRequestsOfAnotherTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slots
		var group sync.WaitGroup
		for i := range 300 {
			group.Go(func() { s.hold(t, fmt.Sprint("slow-", i%3), 10*time.Second) })
		}
		synctest.Wait()
		begin := time.Now()
		for range 10 {
			s.hold(t, "quick", time.Second)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("ten requests of a second each took %s", took)
		}
		group.Wait()
		if s.all != 0 || len(s.of) != 0 || len(s.waiting) != 0 {
			t.Errorf("at the end %d run and %d wait: %v", s.all, len(s.waiting), s.of)
		}
	})
}

func TestSlotsAreBoundedAndGoToWhoHasTheFewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slots
		var mu sync.Mutex
		var group sync.WaitGroup
		running, most := map[string]int{}, map[string]int{}
		start := func(tenant string, n int) {
			for range n {
				group.Go(func() {
					if err := s.enter(t.Context(), tenant); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					for _, k := range []string{tenant, "all"} {
						running[k]++
						most[k] = max(most[k], running[k])
					}
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					running[tenant]--
					running["all"]--
					mu.Unlock()
					s.leave(tenant)
				})
			}
		}
		start("a", 100)
		synctest.Wait()
		mu.Lock()
		if running["a"] != maxOfTenant {
			t.Errorf("one tenant alone has %d slots, want %d", running["a"], maxOfTenant)
		}
		mu.Unlock()
		start("b", 100)
		start("c", 100)
		time.Sleep(10*time.Second + time.Millisecond)
		mu.Lock()
		for _, tenant := range []string{"a", "b", "c"} {
			if n := running[tenant]; n < maxAtOnce/3 || n > maxAtOnce/3+1 {
				t.Errorf("of three tenants %s has %d of %d slots", tenant, n, maxAtOnce)
			}
		}
		mu.Unlock()
		group.Wait()
		// The third tenant's first request came when all slots were taken.
		if most["all"] > maxAtOnce+1 || most["a"] > maxOfTenant {
			t.Errorf("at most there were %v", most)
		}
	})
}

func TestWhoIsTiredOfWaitingLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s slots
		for range maxOfTenant {
			if err := s.enter(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.enter(ctx, "a"); err == nil {
			t.Error("there was a slot too many")
		}
		for range maxOfTenant {
			s.leave("a")
		}
		if s.all != 0 || len(s.of) != 0 || len(s.waiting) != 0 {
			t.Errorf("at the end %d run and %d wait: %v", s.all, len(s.waiting), s.of)
		}
	})
}

// TestOneTenantsSlowRequestsDelayNobodyElse does the same with a service: a hundred pods
// of one namespace log in with a role whose login hangs, and until the end of the test
// none of them gets an answer. A pod of another namespace reads all the same.
func TestOneTenantsSlowRequestsDelayNobodyElse(t *testing.T) {
	s := newServer(t)
	s.Put("good/one", map[string]any{"a": "b"})
	var hanging atomic.Int64
	s.Misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		body := make([]byte, 4<<10)
		n, _ := r.Body.Read(body)
		if !strings.Contains(string(body[:n]), `"role":"hangs"`) {
			return false
		}
		hanging.Add(1)
		<-r.Context().Done()
		return true
	})
	v := vaultAt(t, s)
	v.service.timeout = 2 * time.Second
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	bad := podtoken.Pod{Namespace: "bad", Name: "p", UID: "u", ServiceAccount: "a"}
	token := tokenOf(t, bad, "vault")
	for range 100 {
		group.Go(func() {
			for ctx.Err() == nil {
				_, err := v.Open("hangs").Read(ctx, token, Read{Path: "good/one"})
				wantErr(t, err, volume.ErrUnavailable, "")
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	for end := time.Now().Add(10 * time.Second); hanging.Load() < maxOfTenant; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("only %d requests hang", hanging.Load())
		}
	}
	// Past the moment at which the circuit opens.
	good, longest := tokenFor(t, "vault"), time.Duration(0)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		begin := time.Now()
		if _, err := v.Open("").Read(t.Context(), good, Read{Path: "good/one"}); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(begin))
	}
	cancel()
	group.Wait()
	t.Logf("while %d requests of another namespace hung, a login and a read took %s at most", hanging.Load(), longest)
	if longest >= v.service.timeout {
		t.Errorf("a login and a read took %s: they waited for another namespace's", longest)
	}
}
