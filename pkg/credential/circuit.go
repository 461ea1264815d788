package credential

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The circuit of a service opens after so many failures in a row, for a time that
// doubles with each further one.
const (
	toOpen    = 3
	firstOpen = time.Second
	// longestOpen is well below the time in which a service that is back must be
	// noticed: 90 seconds.
	longestOpen = 20 * time.Second
)

// circuit keeps those who ask a service from asking while it is away. All volumes of a
// source share one.
//
// An open circuit stops a tenant, which is a namespace, only after one of its own
// requests failed: what hangs may hang for that tenant alone, whose requests must not
// keep others from asking. So a service that is away is asked by each tenant for
// itself.
type circuit struct {
	now func() time.Time

	mu       sync.Mutex
	failures int // in a row, of all
	since    time.Time
	answer   time.Time         // the last
	stopped  map[string]*pause // the tenants that failed while it was open
}

// pause is how long a tenant does not ask.
type pause struct {
	until   time.Time
	probing bool // one of its requests is on its way, to see
}

// enter is nil if the service may be asked now for a tenant; then leave must be called.
// Else it is ErrUnavailable.
func (c *circuit) enter(tenant string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.stopped[tenant]
	if p == nil {
		return nil
	}
	if p.probing || c.now().Before(p.until) {
		return fmt.Errorf("%w: it has not answered since %s and is asked again within %s", volume.ErrUnavailable, c.since.UTC().Format(time.RFC3339), longestOpen)
	}
	p.probing = true
	return nil
}

// leave says whether the service answered a tenant, be it with a refusal. abandoned
// means that the one who asked went away first, or others got answers meanwhile, which
// tells nothing of the service.
func (c *circuit) leave(tenant string, answered, abandoned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.stopped[tenant]
	if p != nil {
		p.probing = false
	}
	switch {
	case answered:
		c.failures, c.answer = 0, c.now()
		clear(c.stopped)
	case abandoned:
	default:
		now := c.now()
		if c.failures == 0 {
			c.since = now
		}
		c.failures++
		if c.failures < toOpen {
			return
		}
		if p == nil {
			if c.stopped == nil {
				c.stopped = map[string]*pause{}
			}
			p = &pause{}
			c.stopped[tenant] = p
		}
		p.until = now.Add(jitter(min(longestOpen, firstOpen<<min(c.failures-toOpen, 10))))
	}
}

// answeredSince says whether somebody got an answer after a time. Then what was asked
// then hangs for reasons of its own.
func (c *circuit) answeredSince(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answer.After(t)
}

// away says since when there has been no answer.
func (c *circuit) away() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.failures > 0
}

// jitter is a time between half of d and d, so that what failed together is not tried
// again together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
