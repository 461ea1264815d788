package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// maxRecords is how many different events are remembered: to be delivered, or
	// to be counted when they happen again. One service that is away makes one for each
	// volume of a node that has its credentials from there, and a node may have five
	// hundred.
	maxRecords = 1024
	// repeatAfter is how long the repetitions of an event are gathered before its
	// count is raised.
	repeatAfter = time.Minute
	// flushTime is what a stop gives to events that were not delivered yet.
	flushTime = 2 * time.Second
)

// EventsConfig is what Events need.
type EventsConfig struct {
	// Redact takes the secrets out of a text. Never nil.
	Redact func(string) string
	// Logger is told when events cannot be delivered, once, and when they can be
	// again.
	Logger *slog.Logger
	// Backoff is the first wait after an error; it doubles up to a minute. 0 means
	// a second.
	Backoff time.Duration
}

// Events delivers events about the pod of a Client, and about others. The same event again raises a
// count. A nil *Events drops everything, for a driver that is in no pod.
type Events struct {
	client *Client
	cfg    EventsConfig
	wake   chan struct{}

	mu      sync.Mutex
	records []*record         // the oldest first
	known   map[Event]*record // the same
	dropped int
}

// Events makes an Events that delivers nothing before Run.
func (c *Client) Events(cfg EventsConfig) *Events {
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Second
	}
	return &Events{client: c, cfg: cfg, wake: make(chan struct{}, 1), known: map[Event]*record{}}
}

// Send queues an event and returns at once.
func (e *Events) Send(event Event) {
	if e == nil {
		return
	}
	event.Text = shorten(strings.ToValidUTF8(e.cfg.Redact(event.Text), "\uFFFD"))
	e.mu.Lock()
	e.addLocked(event, time.Now())
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (e *Events) addLocked(event Event, now time.Time) {
	if r := e.known[event]; r != nil {
		r.count++
		r.last = now
		return
	}
	if len(e.records) >= maxRecords && !e.forgetLocked() {
		e.dropped++
		return
	}
	r := &record{
		Event: event, first: now, last: now, count: 1,
		name: fmt.Sprintf("%s.%x", e.client.about(record{Event: event}).Name, now.UnixNano()),
	}
	e.records, e.known[event] = append(e.records, r), r
}

// forgetLocked makes room by forgetting the oldest event that was delivered.
func (e *Events) forgetLocked() bool {
	for i, r := range e.records {
		if r.sent == r.count {
			e.records = slices.Delete(e.records, i, i+1)
			delete(e.known, r.Event)
			return true
		}
	}
	return false
}

// shorten cuts a text to maxText.
func shorten(text string) string {
	const dots = "..."
	if len(text) <= maxText {
		return text
	}
	end := maxText - len(dots)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}

// Run delivers events until ctx ends, and then for a moment what is left.
func (e *Events) Run(ctx context.Context) {
	if e == nil {
		return
	}
	wait := e.cfg.Backoff
	for ctx.Err() == nil {
		r, next := e.due(time.Now())
		if r == nil {
			e.sleep(ctx, next, true)
			continue
		}
		err := e.client.deliver(ctx, *r)
		if ctx.Err() != nil {
			break
		}
		if err != nil && !hopeless(err) {
			if wait == e.cfg.Backoff {
				e.cfg.Logger.Warn("events cannot be delivered; they are kept and tried again", "error", err.Error())
			}
			e.sleep(ctx, wait, false)
			wait = min(2*wait, time.Minute)
			continue
		}
		if wait != e.cfg.Backoff {
			e.cfg.Logger.Info("events are delivered again")
			wait = e.cfg.Backoff
		}
		e.settle(r, err)
	}
	e.flush()
}

// sleep waits, for something new too if wakes.
func (e *Events) sleep(ctx context.Context, d time.Duration, wakes bool) {
	wake := e.wake
	if !wakes {
		wake = nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-timer.C:
	}
}

// due is a copy of the first event that should be delivered now; nil and how long
// that will be if there is none.
func (e *Events) due(now time.Time) (*record, time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := time.Hour
	for _, r := range e.records {
		if r.sent == r.count {
			continue
		}
		wait := time.Duration(0)
		if !r.sentAt.IsZero() {
			wait = repeatAfter - now.Sub(r.sentAt)
		}
		if wait <= 0 {
			out := *r
			return &out, 0
		}
		next = min(next, wait)
	}
	return nil, next
}

// settle writes down that an event was delivered as far as the copy says, or never
// can be.
func (e *Events) settle(delivered *record, err error) {
	if err != nil {
		e.cfg.Logger.Warn("an event was refused and is dropped", "reason", delivered.Reason, "error", err.Error())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.records {
		if r.name == delivered.name {
			r.sent, r.sentAt, r.exists = delivered.count, time.Now(), err == nil
		}
	}
	if e.dropped > 0 {
		e.cfg.Logger.Warn("too many different events at once, some were dropped", "count", e.dropped)
		e.dropped = 0
	}
}

// flush delivers what is left, for as long as a stop may wait.
func (e *Events) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	e.mu.Lock()
	left := make([]record, 0, len(e.records))
	for _, r := range e.records {
		if r.sent != r.count {
			left = append(left, *r)
		}
	}
	e.mu.Unlock()
	for _, r := range left {
		if err := e.client.deliver(ctx, r); err != nil {
			e.cfg.Logger.Warn("events were not delivered before the end", "error", err.Error())
			return
		}
	}
}
