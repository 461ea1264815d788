package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend"
)

// Run checks an engine against the contract of pkg/backend. Each scenario is a
// subtest, and each way to run it is a subtest of that:
//
//   - plain;
//   - every call made twice, with the same answer;
//   - with an error at every step, the call that met it made again;
//   - the same with a restart before the call is made again;
//   - with the context of the call ending at every step, the call made again;
//   - several at once, on objects of their own, while others read.
//
// Whatever the way, the objects at the end must be the same, also after a
// restart, and nothing may be left over. With -short the third way is the only
// one that goes through the steps. A scenario that makes the calls of others with
// many arguments does not go through the steps again.
func Run(t *testing.T, newEngine NewEngine) {
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			r := newRig(t, newEngine)
			if reason := sc.skip(r.engine); reason != "" {
				t.Skip(reason)
			}
			for _, w := range ways() {
				if !w.fits(sc) {
					continue
				}
				t.Run(w.name, func(t *testing.T) {
					if reason := w.skip(r.engine, testing.Short()); reason != "" {
						t.Skip(reason)
					}
					if err := r.check(sc, w); err != nil {
						t.Fatal(err)
					}
					if w.everyStep {
						steps := r.injector.taken()
						t.Logf("%d steps: %s", len(steps), strings.Join(slices.Compact(slices.Sorted(slices.Values(steps))), " "))
					}
				})
				if t.Failed() {
					return // the engine holds what the failure left behind
				}
			}
		})
	}
}

// way is a way to run a scenario.
type way struct {
	name      string
	everyStep bool // once for each step
	cancel    bool // at the step the context ends; else the step is an error
	restart   bool // before the call is made again
	repeat    bool // each call is made twice
	parallel  int  // sessions at once; 0 is one
	long      bool // only for scenarios that change something; left out with -short
}

func ways() []way {
	return []way{
		{name: "plain"},
		{name: "every call repeated", repeat: true},
		{name: "a fault at every step", everyStep: true},
		{name: "a fault and a restart at every step", everyStep: true, restart: true, long: true},
		{name: "the context ends at every step", everyStep: true, cancel: true, long: true},
		{name: "several at once", parallel: 3},
	}
}

// fits says whether a scenario can be run in this way.
func (w way) fits(sc scenario) bool {
	switch {
	case w.parallel > 0:
		return !sc.once && !sc.alone
	case w.everyStep:
		return !sc.once && !sc.table && (sc.changes || !w.long)
	default:
		return !sc.once || !w.repeat
	}
}

// skip is a reason not to run scenarios in this way, or "".
func (w way) skip(e Engine, short bool) string {
	switch {
	case w.long && short:
		return "left out with -short"
	case w.restart && e.Reopen == nil:
		return "the engine cannot be reopened"
	}
	return ""
}

// rig is an engine under test. It belongs to one scenario.
type rig struct {
	injector *injector
	sessions int
	// clean are the objects at the end of the plain run.
	clean []string

	mu     sync.Mutex
	engine Engine // replaced by a restart
}

func newRig(t testing.TB, newEngine NewEngine) *rig {
	r := &rig{injector: &injector{}}
	r.injector.arm(-1)
	r.engine = newEngine(t, r.injector.hook)
	return r
}

// maxSteps is more than any scenario takes.
const maxSteps = 500

// check runs a scenario in one way: nil, or what is wrong with the engine.
func (r *rig) check(sc scenario, w way) error {
	switch {
	case w.parallel > 0:
		return r.checkParallel(sc, w)
	case w.everyStep:
		for target := range maxSteps {
			r.injector.arm(target)
			err := r.checkOnce(sc, w)
			step, fired := r.injector.fired()
			if err != nil {
				return fmt.Errorf("at %s: %w", step, err)
			}
			if !fired {
				if sc.changes && target == 0 {
					return errors.New("the engine changed something and announced no step: its hook is not called")
				}
				return nil
			}
		}
		return fmt.Errorf("there is no end of steps after %d", maxSteps)
	default:
		r.injector.arm(-1)
		return r.checkOnce(sc, w)
	}
}

func (r *rig) checkOnce(sc scenario, w way) error {
	s := r.session(w)
	objects, err := s.run(sc)
	if err == nil {
		err = r.compare(objects)
	}
	if err == nil {
		err = r.leftovers("at the end of the scenario")
	}
	if err == nil && r.engine.Reopen != nil {
		err = s.protect(func() {
			s.restart()
			if diff := cmp.Diff(objects, s.objects()); diff != "" {
				s.failf("a restart changes the objects (-before +after):\n%s", diff)
			}
		})
	}
	if err == nil {
		err = r.leftovers("after a restart")
	}
	err = errors.Join(err, s.cleanUp())
	if err == nil {
		err = r.leftovers("after everything was deleted")
	}
	return err
}

func (r *rig) checkParallel(sc scenario, w way) error {
	r.injector.arm(-1)
	done := make(chan struct{})
	reading := make(chan error, 1)
	go func() { reading <- r.session(way{name: "reader"}).readUntil(done) }()

	errs := make([]error, w.parallel)
	var wg sync.WaitGroup
	for i := range w.parallel {
		s := r.session(w)
		wg.Go(func() {
			objects, err := s.run(sc)
			if err == nil {
				err = r.compare(objects)
			}
			errs[i] = errors.Join(err, s.cleanUp())
		})
	}
	wg.Wait()
	close(done)
	err := errors.Join(append(errs, <-reading)...)
	if err == nil {
		err = r.leftovers("after everything was deleted")
	}
	return err
}

// compare checks that the objects are those of the plain run, which comes first.
func (r *rig) compare(objects []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clean == nil {
		r.clean = objects
	}
	if diff := cmp.Diff(r.clean, objects); diff != "" {
		return fmt.Errorf("the objects are not those of the plain run (-plain +now):\n%s", diff)
	}
	return nil
}

func (r *rig) leftovers(when string) error {
	if left := r.engine.Leftovers(); len(left) > 0 {
		return fmt.Errorf("%s there are leftovers:\n\t%s", when, strings.Join(left, "\n\t"))
	}
	return nil
}

func (r *rig) session(w way) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions++
	return &session{
		rig: r, way: w, ctx: context.Background(),
		prefix: fmt.Sprintf("session-%d/", r.sessions),
		names:  map[string]string{}, devices: map[*backend.Device]bool{},
	}
}
