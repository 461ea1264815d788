package identityvolume

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// pace is how often what is tried.
type pace struct {
	// poll is the least time between two looks at what can be read again, however
	// often kubelet calls.
	poll time.Duration
	// firstRetry doubles with each failure in a row up to maxRetry, which is below the
	// 90 seconds in which a service that is back is to be used again.
	firstRetry, maxRetry time.Duration
	// confirm is how long something must have been refused to pass for taken away: an
	// API server that is away for a moment makes Vault refuse everybody.
	confirm time.Duration
	// confirmLogin is the same for a login that is refused while nothing that was read
	// is: Vault refuses every login for as long as it cannot ask the API server, which
	// may take as long as an upgrade of it.
	confirmLogin time.Duration
}

func defaultPace() pace {
	return pace{
		poll: 20 * time.Second, firstRetry: 2 * time.Second, maxRetry: 40 * time.Second,
		confirm: 25 * time.Second, confirmLogin: 90 * time.Second,
	}
}

// held is a volume that is published: what it asked for, and what it has.
//
// One goroutine at a time works on it, the one that publishes it and then the one that
// refreshes it. What others may look at or tell it is guarded by mu.
type held struct {
	id, target string
	pod        podtoken.Pod
	gid        int
	spec       spec
	// device is the number of the tmpfs, written while nobody else uses the volume.
	device uint64
	// orphaned is why nothing can be read for the volume; then source and session are
	// nil, and what is there is kept until its end.
	orphaned error
	source   credential.Source
	session  credential.Session
	pace     pace
	now      func() time.Time
	// put makes files what the pod sees.
	put func(files []payload.File, s payload.Set) error
	// intact says whether the pod sees exactly these files.
	intact func(files []payload.File) bool
	// blank makes what the pod sees empty, in place, which takes no space.
	blank  func() error
	notice func(Reason, string)
	count  func(outcome string)

	have  map[string]credential.Credential // what the files are made of
	fresh map[string]credential.Credential // what was read since, and waits for the rest
	files []payload.File                   // what the pod should see; nil: not known
	// before is when what an earlier driver wrote ends to be valid, while nothing was
	// read since the start.
	before time.Time
	// written is the end that is written with the files, for a driver after this one,
	// in seconds since 1970; 0 for none.
	written  int64
	looked   time.Time
	failures int
	// refused is since when the service says no, and refusedRead since when it does so
	// though it lets the pod log in; zero if it does not.
	refused, refusedRead time.Time
	said                 bool // that files are kept which are worth nothing

	// tokenless says that a call without a good token was reported.
	tokenless atomic.Bool

	mu     sync.Mutex
	token  podtoken.Token
	sum    secret.Sum
	polled bool // kubelet has called since the last look
	state  State
	wake   chan struct{} // of one
	stop   context.CancelFunc
	done   chan struct{}
}

// State is what is known of a volume, without anything secret.
type State struct {
	Pod    podtoken.Pod
	Source string
	// Credentials by name: when each was got, and when it ends.
	Credentials map[string]Validity
	// Fenced says that the files were emptied.
	Fenced bool
	// Failing is since when refreshing fails; zero if it does not.
	Failing time.Time
}

// Validity is when a credential was got and when it ends; zero if that is not known.
type Validity struct{ Issued, Expires time.Time }

// tell gives the volume the token of another call, which may be the same.
func (h *held) tell(token podtoken.Token) {
	h.mu.Lock()
	if sum := token.Text.Sum(); sum != h.sum {
		h.token, h.sum = token, sum
	}
	h.polled = true
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default: // it has been woken
	}
}

// usable says whether the token at hand can be used now.
func (h *held) usable() bool {
	h.mu.Lock()
	token := h.token
	h.mu.Unlock()
	return token.Check(h.pod, h.now()) == nil
}

// run refreshes the volume until ctx ends.
func (h *held) run(ctx context.Context) {
	defer close(h.done)
	for {
		timer := time.NewTimer(h.next().Sub(h.now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-h.wake:
			// So that many volumes of one node do not ask in the same moment.
			sleep(ctx, rand.N(h.pace.firstRetry/4+1))
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() == nil {
			h.turn(ctx)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// next is when there is something to do though nobody calls.
func (h *held) next() time.Time {
	now := h.now()
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if h.failures > 0 {
		retry := min(h.pace.maxRetry, h.pace.firstRetry<<min(h.failures-1, 10))
		sooner(h.looked.Add(retry/2 + rand.N(retry/2+1)))
	} else {
		for _, c := range h.have {
			// One that came no younger than it was is not asked for without a pause.
			if due, ok := dueAt(c); ok {
				sooner(later(due, h.looked.Add(h.pace.poll/4)))
			}
		}
		h.mu.Lock()
		if h.polled {
			sooner(h.looked.Add(h.pace.poll))
		}
		h.mu.Unlock()
	}
	if end := h.end(); end.After(now) {
		sooner(end)
	}
	if floor := now.Add(50 * time.Millisecond); next.Before(floor) {
		return floor
	}
	return next
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// unknownAgain is how often is read anew what does not say when it ends, in case it
// does.
const unknownAgain = time.Hour

// dueAt is when a credential is to be replaced: after two thirds of its life, a little
// earlier or later for each. ok is false for one that is read at each look instead.
func dueAt(c credential.Credential) (at time.Time, ok bool) {
	after := c.Life() * 2 / 3
	if c.Expires.IsZero() {
		if c.Static {
			return time.Time{}, false
		}
		if after = c.Again; after == 0 {
			after = unknownAgain
		}
	}
	// By the clock of its own: the same each time it is asked.
	spread := time.Duration(c.Issued.Nanosecond()%100) * after / 667
	return c.Issued.Add(after - spread), true
}

// end is when the first of the files ends to be valid; zero if none does.
func (h *held) end() time.Time {
	end := h.before
	for _, c := range h.have {
		if !c.Expires.IsZero() && (end.IsZero() || c.Expires.Before(end)) {
			end = c.Expires
		}
	}
	return end
}

// settle writes down how a refresh ended, and says so if that is news.
func (h *held) settle(err error) {
	now := h.now()
	if err == nil {
		h.count("ok")
		h.mu.Lock()
		failing, fenced := h.state.Failing, h.state.Fenced
		h.state.Failing, h.state.Fenced = time.Time{}, false
		h.state.Credentials = validities(h.have)
		h.mu.Unlock()
		if !failing.IsZero() {
			h.notice(Refreshed, fmt.Sprintf("the credentials of volume %s are refreshed again, after %s", h.id, now.Sub(failing).Round(time.Second)))
		} else if fenced {
			h.notice(Refreshed, fmt.Sprintf("the files of volume %s are back", h.id))
		}
		h.failures, h.refused, h.refusedRead, h.said = 0, time.Time{}, time.Time{}, false
		return
	}
	h.count("failed")
	h.failures++
	h.mu.Lock()
	first := h.state.Failing.IsZero()
	if first {
		h.state.Failing = now
	}
	if errors.Is(err, payload.ErrLeft) {
		h.state.Fenced, h.state.Credentials = false, validities(h.have)
	}
	h.mu.Unlock()
	refused := refusal(err)
	news := first || refused == h.refused.IsZero()
	if !refused {
		h.refused, h.refusedRead = time.Time{}, time.Time{}
	} else if h.refused.IsZero() {
		h.refused = now
	}
	if errors.Is(err, credential.ErrLogin) {
		h.refusedRead = time.Time{} // nobody was asked whether it may be read
	} else if refused && h.refusedRead.IsZero() {
		h.refusedRead = now
	}
	if news {
		h.notice(RefreshFailed, fmt.Sprintf("refresh the credentials of volume %s: %s; what is still valid is kept, and it is tried again", h.id, err))
	}
}

func validities(all map[string]credential.Credential) map[string]Validity {
	out := make(map[string]Validity, len(all))
	for name, c := range all {
		out[name] = Validity{c.Issued, c.Expires}
	}
	return out
}

// expire does what the policy says with files that are worth nothing any more.
func (h *held) expire() {
	now, why := h.now(), ""
	lasting := func(since time.Time, confirm time.Duration) bool {
		return !since.IsZero() && h.looked.Sub(since) >= confirm
	}
	switch end := h.end(); {
	case lasting(h.refusedRead, h.pace.confirm), lasting(h.refused, h.pace.confirmLogin):
		why = "the service has refused them since " + h.refused.UTC().Format(time.RFC3339)
	case !end.IsZero() && !now.Before(end):
		why = "they ended at " + end.UTC().Format(time.RFC3339) + " and could not be replaced"
	default:
		return
	}
	h.mu.Lock()
	done := h.state.Fenced
	h.state.Fenced = h.spec.policy == Fence
	h.mu.Unlock()
	if done {
		return
	}
	if h.spec.policy == Keep {
		h.keep(why)
		return
	}
	if err := h.empty(now); err != nil {
		h.mu.Lock()
		h.state.Fenced = false
		h.mu.Unlock()
		h.notice(RefreshFailed, fmt.Sprintf("empty the files of volume %s: %s", h.id, err))
		return
	}
	h.mu.Lock()
	h.state.Credentials = nil
	h.mu.Unlock()
	h.count("fenced")
	h.notice(Fenced, fmt.Sprintf("the files of volume %s are emptied: %s", h.id, why))
}

// keep says once that files are left which are worth nothing.
func (h *held) keep(why string) {
	if h.said {
		return
	}
	h.said = true
	h.notice(Expired, fmt.Sprintf("the files of volume %s are kept as they are although they are worth nothing: %s", h.id, why))
}

// empty makes every file an empty one. What was read is forgotten, so that all of it
// is read anew.
func (h *held) empty(now time.Time) error {
	var files []payload.File
	for _, f := range h.spec.files {
		files = append(files, payload.File{Name: f.name, Mode: 0o444})
	}
	var err error
	if len(files) > 0 {
		err = h.put(files, payload.Set{Written: now})
	}
	if len(files) == 0 || err != nil {
		// The names are not known; or there is no room for new files, because the pod
		// keeps old ones open.
		if blank := h.blank(); blank != nil {
			return errors.Join(err, blank)
		}
	}
	h.files, h.before, h.written = files, time.Time{}, 0
	h.have, h.fresh = map[string]credential.Credential{}, map[string]credential.Credential{}
	return nil
}
