package backendtest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// session is one run of a scenario, on objects of its own. Its calls reach the
// engine in the way of the run: once, twice, or with a fault and then again. A
// check that does not hold ends the run through failf.
type session struct {
	rig    *rig
	way    way
	ctx    context.Context
	prefix string // of every name that the session uses
	acting bool   // what comes is what the scenario is about

	mu      sync.Mutex
	names   map[string]string // id -> name without the prefix, of all that ever existed
	devices map[*backend.Device]bool
}

// failure is what failf panics with and protect recovers.
type failure struct{ err error }

func (s *session) failf(format string, args ...any) {
	panic(failure{fmt.Errorf(format, args...)})
}

// protect turns a failed check in do into an error.
func (s *session) protect(do func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = r.err
		default:
			panic(r)
		}
	}()
	do()
	return nil
}

// run runs a scenario and returns the objects that there are at its end.
func (s *session) run(sc scenario) (objects []string, err error) {
	err = s.protect(func() {
		sc.run(s)
		s.acting = false
		s.consistent()
		objects = s.objects()
	})
	return objects, err
}

// act says that what was given is in place: from here on calls are repeated and
// meet faults.
func (s *session) act() { s.acting = true }

// verify says that what the scenario is about has happened: from here on calls
// only check what came of it, and are made plainly.
func (s *session) verify() { s.acting = false }

func (s *session) engine() Engine {
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	return s.rig.engine
}

// restart reopens the engine. No call may be running.
func (s *session) restart() {
	e, err := s.engine().Reopen()
	if err != nil {
		s.failf("reopen the engine: %w", err)
	}
	s.rig.mu.Lock()
	defer s.rig.mu.Unlock()
	s.rig.engine = e
}

var errFault = errors.New("fault injected by the suite")

// call makes a call of the engine in the way of the session.
func call[T any](s *session, what string, do func(context.Context) (T, error)) (T, error) {
	switch {
	case s.acting && s.way.repeat:
		first, err := do(s.ctx)
		second, again := do(s.ctx)
		if (err == nil) != (again == nil) || !errors.Is(sentinelOf(err), sentinelOf(again)) {
			s.failf("%s, made twice: first %w, then %w", what, answered(err), answered(again))
		}
		if diff := cmp.Diff(first, second, cmpopts.IgnoreFields(backend.Device{}, "Hold")); diff != "" {
			s.failf("%s, made twice, gives another answer (-first +second):\n%s", what, diff)
		}
		return second, again
	case s.acting && s.way.everyStep:
		return callWithFault(s, what, do)
	default:
		return do(s.ctx)
	}
}

func callWithFault[T any](s *session, what string, do func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	act := func() error { return errFault }
	if s.way.cancel {
		act = func() error { cancel(); return nil }
	}
	var got T
	var err error
	if met := s.rig.injector.during(act, func() { got, err = do(ctx) }); !met || err == nil {
		return got, err
	}
	for _, final := range []error{volume.ErrInvalid, volume.ErrNotFound, volume.ErrExists, volume.ErrBadToken} {
		if errors.Is(err, final) {
			s.failf("%s met a fault and says that the request is wrong: %w", what, err)
		}
	}
	s.consistent()
	if s.way.restart {
		s.restart()
		s.consistent()
		if err := s.rig.leftovers("after a fault in " + what + " and a restart"); err != nil {
			s.failf("%w", err)
		}
	}
	return do(s.ctx)
}

// answered is err, or an error that says that there was none.
func answered(err error) error {
	if err == nil {
		return errors.New("success")
	}
	return err
}

func (s *session) create(spec volume.Spec) (volume.Volume, error) {
	v, err := call(s, fmt.Sprintf("CreateVolume(%.60q)", spec.Name), func(ctx context.Context) (volume.Volume, error) {
		return s.engine().CreateVolume(ctx, spec)
	})
	if err == nil {
		s.remember(v.ID, spec.Name)
	}
	return v, err
}

func (s *session) snapshot(spec volume.SnapshotSpec) (volume.Snapshot, error) {
	snap, err := call(s, fmt.Sprintf("CreateSnapshot(%.60q)", spec.Name), func(ctx context.Context) (volume.Snapshot, error) {
		return s.engine().CreateSnapshot(ctx, spec)
	})
	if err == nil {
		s.remember(snap.ID, spec.Name)
	}
	return snap, err
}

func (s *session) remember(id volume.ID, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names[string(id)] = name[len(s.prefix):]
}

func (s *session) expand(id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
	return call(s, fmt.Sprintf("ExpandVolume(%s, %s)", id, size), func(ctx context.Context) (volume.Volume, error) {
		return s.engine().ExpandVolume(ctx, id, size, limit)
	})
}

func (s *session) deleteVolume(id volume.ID) error {
	return s.do(fmt.Sprintf("DeleteVolume(%s)", id), func(ctx context.Context) error {
		return s.engine().DeleteVolume(ctx, id)
	})
}

func (s *session) deleteSnapshot(id volume.ID) error {
	return s.do(fmt.Sprintf("DeleteSnapshot(%s)", id), func(ctx context.Context) error {
		return s.engine().DeleteSnapshot(ctx, id)
	})
}

// attach gives a device that is open until closeDevices.
func (s *session) attach(id volume.ID) (*backend.Device, error) {
	return call(s, fmt.Sprintf("Attach(%s)", id), func(ctx context.Context) (*backend.Device, error) {
		d, err := s.engine().Attacher.Attach(ctx, id)
		if err == nil {
			s.hold(d)
		}
		return d, err
	})
}

// lookup gives a device that is open until closeDevices, nil if the volume is not
// attached.
func (s *session) lookup(id volume.ID) *backend.Device {
	d, ok, err := s.engine().Attacher.Lookup(s.ctx, id)
	switch {
	case err != nil:
		s.failf("Lookup(%s): %w", id, err)
	case ok && d == nil:
		s.failf("Lookup(%s) found a device and gives none", id)
	case ok:
		s.hold(d)
		return d
	}
	return nil
}

func (s *session) refresh(id volume.ID) error {
	return s.do(fmt.Sprintf("Refresh(%s)", id), func(ctx context.Context) error {
		return s.engine().Attacher.Refresh(ctx, id)
	})
}

func (s *session) detach(id volume.ID) error {
	return s.do(fmt.Sprintf("Detach(%s)", id), func(ctx context.Context) error {
		return s.engine().Attacher.Detach(ctx, id)
	})
}

func (s *session) do(what string, do func(context.Context) error) error {
	_, err := call(s, what, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) })
	return err
}

func (s *session) hold(d *backend.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices[d] = true
}

// closeDevices closes every device that the session holds open.
func (s *session) closeDevices() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.devices {
		delete(s.devices, d)
		if err := d.Close(); err != nil {
			s.failf("close device %s: %w", d.Path, err)
		}
	}
}
