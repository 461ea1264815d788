package credential

import (
	"fmt"
	"maps"
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
	// forEach is how much of a pause there is for each tenant that is stopped, if that is
	// more: the more ask, the less often each does. It ends at longestPatience, and so
	// does not make more of these 90 seconds than a service may itself.
	forEach = 800 * time.Millisecond
)

// longestPatience bounds for how long a service may ask not to be asked (Retry-After).
// With the longest pause of a volume between two tries it is below the same 90 seconds.
const longestPatience = 40 * time.Second

// circuit keeps those who ask a service from asking while it is away. All volumes of
// all sources at one address share one (shareCircuits).
//
// An open circuit stops a tenant, which is a namespace, only after one of its own
// requests failed: what hangs may hang for that tenant alone, whose requests must not
// keep others from asking. So a service that is away is asked by each tenant for
// itself, and the less often the more they are.
type circuit struct {
	now func() time.Time

	mu       sync.Mutex
	failures int // in a row, of all
	since    time.Time
	cause    string            // of the last failure that has one for everybody
	counted  time.Time         // when the last failure was that opened it, or kept it open
	answer   time.Time         // the last
	stopped  map[string]*pause // the tenants that failed while it was open
}

// pause is how long a tenant does not ask.
type pause struct {
	until   time.Time
	probing bool // one of its requests is on its way, to see
	// told is until when the service itself wants it not to ask, away or not.
	told time.Time
}

// pass lets somebody ask once.
type pass struct {
	tenant string
	begin  time.Time
	// probe is the pause in spite of which it asks; nil if there is none.
	probe *pause
}

// outcome is how a request went.
type outcome struct {
	// answered says that the service answered, be it with a refusal.
	answered bool
	// abandoned says that the one who asked went away first, or others got answers
	// meanwhile, which tells nothing of the service.
	abandoned bool
	// cause is why there was no answer, if everybody may know that.
	cause string
	// patience is for how long the service wants not to be asked again.
	patience time.Duration
}

// enter is nil if the service may be asked now for a tenant; then leave must be called
// with the pass. Else it is ErrUnavailable.
func (c *circuit) enter(tenant string) (pass, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	p := c.stopped[tenant]
	switch {
	case p == nil:
		return pass{tenant: tenant, begin: now}, nil
	case now.Before(p.told):
		return pass{}, fmt.Errorf("%w: it has asked not to be asked again before %s", volume.ErrUnavailable, p.told.UTC().Format(time.RFC3339))
	case p.until.IsZero():
		// It was asked to wait, and has.
		delete(c.stopped, tenant)
		return pass{tenant: tenant, begin: now}, nil
	case p.probing || now.Before(p.until):
		why := ""
		if c.cause != "" {
			why = " (" + c.cause + ")"
		}
		return pass{}, fmt.Errorf("%w: it has not answered since %s%s and is asked again within %s", volume.ErrUnavailable, c.since.UTC().Format(time.RFC3339), why, longestPatience)
	}
	p.probing = true
	return pass{tenant: tenant, begin: now, probe: p}, nil
}

// leave says how the request went that a pass was for.
func (c *circuit) leave(p pass, how outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if p.probe != nil {
		p.probe.probing = false
	}
	switch {
	case how.answered:
		c.failures, c.answer, c.cause = 0, now, ""
		maps.DeleteFunc(c.stopped, func(_ string, p *pause) bool {
			p.until = time.Time{}
			return !now.Before(p.told)
		})
	case how.abandoned:
	default:
		c.failLocked(p, how, now)
	}
	if how.patience > 0 {
		c.pauseLocked(p.tenant).told = now.Add(min(how.patience, longestPatience))
	}
}

// failLocked counts a failure. One that began before the last that counted is of the
// same moment, and tells nothing more: of many requests at once that one hiccup ends,
// the circuit opens for the shortest time.
func (c *circuit) failLocked(p pass, how outcome, now time.Time) {
	if c.failures == 0 {
		c.since = now
	}
	if how.cause != "" {
		c.cause = how.cause
	}
	if c.failures < toOpen || !p.begin.Before(c.counted) {
		c.failures++
		if c.failures >= toOpen {
			c.counted = now
		}
	}
	if c.failures >= toOpen {
		pause := c.pauseLocked(p.tenant)
		longest := min(longestPatience, max(longestOpen, time.Duration(len(c.stopped))*forEach))
		pause.until = now.Add(jitter(min(longest, firstOpen<<min(c.failures-toOpen, 10))))
	}
}

func (c *circuit) pauseLocked(tenant string) *pause {
	if c.stopped == nil {
		c.stopped = map[string]*pause{}
	}
	if c.stopped[tenant] == nil {
		c.stopped[tenant] = &pause{}
	}
	return c.stopped[tenant]
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
