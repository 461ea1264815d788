package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// operations runs every call that changes something in a goroutine with a
// deadline of its own, which goes on when the caller goes away.
//
// Lock order: mu is never held while waiting for locks, and locks.mu is never
// held while taking mu.
type operations struct {
	timeout  time.Duration // how long an operation may take
	patience time.Duration // how long it waits for its locks before that
	log      *callLog
	locks    *locks
	base     context.Context // every operation's ancestor; ends at a forced stop
	// repeats is Config.Repeats.
	repeats func(ctx context.Context, req any) (resp any, ok bool)

	mu      sync.Mutex
	current map[fingerprint]*operation // those that can be joined
	all     map[*operation]struct{}    // those whose goroutine lives
}

func newOperations(base context.Context, timeout, patience time.Duration, log *callLog) *operations {
	return &operations{
		timeout: timeout, patience: patience, log: log, locks: newLocks(), base: base,
		current: map[fingerprint]*operation{}, all: map[*operation]struct{}{},
	}
}

// operation is one run of a method.
type operation struct {
	print   fingerprint
	method  string
	req     any
	started time.Time
	// dismiss ends the wait for locks of an operation that nobody waits for.
	dismiss context.CancelFunc

	// Guarded by operations.mu.
	callers int
	state   state

	// done is closed when resp and err are final.
	done chan struct{}
	resp any
	err  error
}

// state is how far an operation has come.
type state int

const (
	waiting   state = iota // for its locks
	dismissed              // its callers went away before it had them
	running
	ended
)

// String names an operation in an error or in the log.
func (o *operation) String() string {
	what := firstOf(nameOf(o.req), idOfVolume(o.req), idOfSnapshot(o.req), pathOf(o.req))
	return fmt.Sprintf("%s of %q has been running for %s", shortMethod(o.method), cut(Redact(what), maxLogText),
		time.Since(o.started).Round(time.Millisecond))
}

// runOperations gives a call that changes something its operation, and one that
// reads a context that ends with the caller's but carries nothing else of it.
func (s *operations) runOperations(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	keys, changes := keysOf(req)
	if !changes {
		reading, cancel := context.WithTimeout(s.base, s.timeout)
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return next(reading, req)
	}
	return s.do(ctx, info.FullMethod, req, keys, next)
}

// overtime is what an operation gets to return after its deadline, before its
// callers are told that it is stuck.
const overtime = 5 * time.Second

// do joins the operation of an identical call, or starts one, and waits for its
// end or for that of ctx.
func (s *operations) do(ctx context.Context, method string, req any, keys []key, next grpc.UnaryHandler) (any, error) {
	// A caller without a deadline must not hang for ever on a stuck operation.
	ctx, cancel := context.WithTimeout(ctx, s.patience+s.timeout+overtime)
	defer cancel()
	op := s.enter(method, req, keys, next)
	select {
	case <-op.done:
		return op.resp, op.err
	case <-ctx.Done():
	}
	switch s.leave(op) {
	case ended:
		<-op.done
		return op.resp, op.err
	case dismissed:
		return nil, fmt.Errorf("stopped waiting before the operation could begin, nothing was done: %w", ctx.Err())
	default:
		return nil, fmt.Errorf("stopped waiting, the operation goes on and the same call joins it: %s: %w", op, ctx.Err())
	}
}

func (s *operations) enter(method string, req any, keys []key, next grpc.UnaryHandler) *operation {
	print := fingerprintOf(method, req)
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.current[print]
	if op == nil {
		wait, dismiss := context.WithCancel(s.base)
		op = &operation{print: print, method: method, req: req, started: time.Now(), dismiss: dismiss, done: make(chan struct{})}
		s.current[print] = op
		s.all[op] = struct{}{}
		go s.run(wait, op, keys, next)
	}
	op.callers++
	return op
}

// leave says that a caller waits no more, and how far the operation has come.
// One that nobody waits for and that has not begun never begins.
func (s *operations) leave(op *operation) state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op.state == ended {
		return ended
	}
	op.callers--
	if op.callers == 0 && op.state == waiting {
		op.state = dismissed
		op.dismiss()
		delete(s.current, op.print)
	}
	return op.state
}

// begin reports whether an operation that has its locks may start.
func (s *operations) begin(op *operation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op.state == dismissed {
		return false
	}
	op.state = running
	return true
}

// end makes the result of an operation final and reports whether somebody waits
// for it. From here on nobody can join it.
func (s *operations) end(op *operation, resp any, err error) (awaited bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current[op.print] == op {
		delete(s.current, op.print)
	}
	op.resp, op.err = resp, err
	wasDismissed := op.state == dismissed
	op.state = ended
	return op.callers > 0 || wasDismissed
}

// run is the life of an operation.
func (s *operations) run(wait context.Context, op *operation, keys []key, next grpc.UnaryHandler) {
	defer s.gone(op)
	defer op.dismiss()
	c := &claim{keys: keys, holder: op}
	if err := s.locks.acquire(wait, c, s.patience); err != nil {
		if resp, ok := s.repeat(op, keys, err); ok {
			s.end(op, resp, nil)
			return
		}
		s.end(op, nil, s.finalError(op, err))
		return
	}
	defer s.locks.release(c)
	if !s.begin(op) {
		s.end(op, nil, context.Canceled)
		return
	}
	var resp any
	err := errNoAnswer
	// The order matters: nobody may join once the locks are free, for then the
	// answer may be out of date; and the locks must be free when the caller has
	// its answer, for then it makes the next call.
	defer func() {
		err = s.finalError(op, err)
		if err != nil {
			resp = nil
		}
		if !s.end(op, resp, err) {
			s.log.log("operation ended after its callers stopped waiting", call{op.method, op.req, resp, err, time.Since(op.started)})
		}
	}()
	ctx, cancel := context.WithTimeout(s.base, s.timeout)
	defer cancel()
	resp, err = guard(op.req, func() (any, error) { return next(ctx, op.req) })
}

// gone is the last step of an operation's goroutine.
func (s *operations) gone(op *operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, op)
	close(op.done)
}

// errNoAnswer is the error of a method whose goroutine exited.
var errNoAnswer = errors.New("the call ended without an answer")

// finalError takes the secrets of the operation's own request out of an error:
// a caller that joined may have other ones.
func (s *operations) finalError(op *operation, err error) error {
	if errors.Is(err, context.Canceled) && s.base.Err() != nil {
		err = fmt.Errorf("%w: the driver is stopping, the same call carries on when it is back: %w", volume.ErrUnavailable, err)
	}
	return toCallError(err, secretsOf(op.req))
}
