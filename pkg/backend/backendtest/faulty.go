package backendtest

import (
	"context"
	"sync"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Method names a method of backend.Provisioner or backend.Attacher.
type Method string

// The methods that Faulty can make fail. Volume and Health are of both interfaces.
const (
	MethodCapacity       Method = "Capacity"
	MethodCreateVolume   Method = "CreateVolume"
	MethodDeleteVolume   Method = "DeleteVolume"
	MethodExpandVolume   Method = "ExpandVolume"
	MethodVolume         Method = "Volume"
	MethodVolumes        Method = "Volumes"
	MethodCreateSnapshot Method = "CreateSnapshot"
	MethodDeleteSnapshot Method = "DeleteSnapshot"
	MethodSnapshot       Method = "Snapshot"
	MethodSnapshots      Method = "Snapshots"
	MethodAttach         Method = "Attach"
	MethodLookup         Method = "Lookup"
	MethodRefresh        Method = "Refresh"
	MethodDetach         Method = "Detach"
	MethodHealth         Method = "Health"
	MethodUnhealthy      Method = "Unhealthy"
	MethodStorageHealth  Method = "StorageHealth"
)

// Faulty passes every call on to an engine, except those that it was told to
// fail. It is a backend.Provisioner, and a backend.Attacher if it was given one.
type Faulty struct {
	provisioner backend.Provisioner
	attacher    backend.Attacher

	mu    sync.Mutex
	calls map[Method]int
	plans map[Method]map[int]faultPlan
}

type faultPlan struct {
	err error
	// after says that the engine does the work and only its answer is lost.
	after bool
}

var (
	_ backend.Provisioner = (*Faulty)(nil)
	_ backend.Attacher    = (*Faulty)(nil)
)

// NewFaulty decorates an engine. Either part may be nil; then its own methods
// must not be called.
func NewFaulty(p backend.Provisioner, a backend.Attacher) *Faulty {
	return &Faulty{provisioner: p, attacher: a, calls: map[Method]int{}, plans: map[Method]map[int]faultPlan{}}
}

// Fail makes the nth call of a method from now on (1 is the next) return err
// without reaching the engine.
func (f *Faulty) Fail(method Method, nth int, err error) {
	f.plan(method, nth, faultPlan{err: err})
}

// FailAfter makes the nth call of a method from now on (1 is the next) reach the
// engine and return err all the same: the work is done, the answer is lost.
func (f *Faulty) FailAfter(method Method, nth int, err error) {
	f.plan(method, nth, faultPlan{err: err, after: true})
}

func (f *Faulty) plan(method Method, nth int, p faultPlan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plans[method] == nil {
		f.plans[method] = map[int]faultPlan{}
	}
	f.plans[method][f.calls[method]+nth] = p
}

// Calls is how often a method was called.
func (f *Faulty) Calls(method Method) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

func (f *Faulty) next(method Method) faultPlan {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	return f.plans[method][f.calls[method]]
}

// answer runs a call of the engine as the plan for it says. drop lets go of an
// answer that is lost; nil if there is nothing to let go of.
func answer[T any](f *Faulty, method Method, do func() (T, error), drop func(T)) (T, error) {
	var none T
	p := f.next(method)
	if p.err != nil && !p.after {
		return none, p.err
	}
	got, err := do()
	if p.err == nil {
		return got, err
	}
	if err == nil && drop != nil {
		drop(got)
	}
	return none, p.err
}

func outcome(f *Faulty, method Method, do func() error) error {
	_, err := answer(f, method, func() (struct{}, error) { return struct{}{}, do() }, nil)
	return err
}

// Capabilities implements backend.Provisioner.
func (f *Faulty) Capabilities() backend.Capabilities { return f.provisioner.Capabilities() }

// Pools implements backend.Provisioner and backend.Attacher.
func (f *Faulty) Pools() []volume.Pool {
	if f.provisioner != nil {
		return f.provisioner.Pools()
	}
	return f.attacher.Pools()
}

// Capacity implements backend.Provisioner.
func (f *Faulty) Capacity(ctx context.Context, pool string, allowed []volume.PoolID) (backend.Capacity, error) {
	return answer(f, MethodCapacity, func() (backend.Capacity, error) { return f.provisioner.Capacity(ctx, pool, allowed) }, nil)
}

// CreateVolume implements backend.Provisioner.
func (f *Faulty) CreateVolume(ctx context.Context, spec volume.Spec) (volume.Volume, error) {
	return answer(f, MethodCreateVolume, func() (volume.Volume, error) { return f.provisioner.CreateVolume(ctx, spec) }, nil)
}

// DeleteVolume implements backend.Provisioner.
func (f *Faulty) DeleteVolume(ctx context.Context, id volume.ID) error {
	return outcome(f, MethodDeleteVolume, func() error { return f.provisioner.DeleteVolume(ctx, id) })
}

// ExpandVolume implements backend.Provisioner.
func (f *Faulty) ExpandVolume(ctx context.Context, id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
	return answer(f, MethodExpandVolume, func() (volume.Volume, error) { return f.provisioner.ExpandVolume(ctx, id, size, limit) }, nil)
}

// Volume implements backend.Provisioner and backend.Attacher.
func (f *Faulty) Volume(ctx context.Context, id volume.ID) (volume.Volume, error) {
	return answer(f, MethodVolume, func() (volume.Volume, error) {
		if f.provisioner != nil {
			return f.provisioner.Volume(ctx, id)
		}
		return f.attacher.Volume(ctx, id)
	}, nil)
}

// Volumes implements backend.Provisioner.
func (f *Faulty) Volumes(ctx context.Context) ([]volume.Volume, error) {
	return answer(f, MethodVolumes, func() ([]volume.Volume, error) { return f.provisioner.Volumes(ctx) }, nil)
}

// CreateSnapshot implements backend.Provisioner.
func (f *Faulty) CreateSnapshot(ctx context.Context, spec volume.SnapshotSpec) (volume.Snapshot, error) {
	return answer(f, MethodCreateSnapshot, func() (volume.Snapshot, error) { return f.provisioner.CreateSnapshot(ctx, spec) }, nil)
}

// DeleteSnapshot implements backend.Provisioner.
func (f *Faulty) DeleteSnapshot(ctx context.Context, id volume.ID) error {
	return outcome(f, MethodDeleteSnapshot, func() error { return f.provisioner.DeleteSnapshot(ctx, id) })
}

// Snapshot implements backend.Provisioner.
func (f *Faulty) Snapshot(ctx context.Context, id volume.ID) (volume.Snapshot, error) {
	return answer(f, MethodSnapshot, func() (volume.Snapshot, error) { return f.provisioner.Snapshot(ctx, id) }, nil)
}

// Snapshots implements backend.Provisioner.
func (f *Faulty) Snapshots(ctx context.Context) ([]volume.Snapshot, error) {
	return answer(f, MethodSnapshots, func() ([]volume.Snapshot, error) { return f.provisioner.Snapshots(ctx) }, nil)
}

// Attach implements backend.Attacher.
func (f *Faulty) Attach(ctx context.Context, id volume.ID) (*backend.Device, error) {
	return answer(f, MethodAttach, func() (*backend.Device, error) { return f.attacher.Attach(ctx, id) },
		func(d *backend.Device) { d.Close() })
}

// Lookup implements backend.Attacher.
func (f *Faulty) Lookup(ctx context.Context, id volume.ID) (*backend.Device, bool, error) {
	d, err := answer(f, MethodLookup, func() (*backend.Device, error) {
		d, ok, err := f.attacher.Lookup(ctx, id)
		if !ok {
			return nil, err
		}
		return d, err
	}, func(d *backend.Device) {
		if d != nil {
			d.Close()
		}
	})
	return d, d != nil, err
}

// Refresh implements backend.Attacher.
func (f *Faulty) Refresh(ctx context.Context, id volume.ID) error {
	return outcome(f, MethodRefresh, func() error { return f.attacher.Refresh(ctx, id) })
}

// Detach implements backend.Attacher.
func (f *Faulty) Detach(ctx context.Context, id volume.ID) error {
	return outcome(f, MethodDetach, func() error { return f.attacher.Detach(ctx, id) })
}

// Health implements backend.Provisioner and backend.Attacher.
func (f *Faulty) Health(ctx context.Context, id volume.ID) ([]volume.Condition, error) {
	return answer(f, MethodHealth, func() ([]volume.Condition, error) {
		if f.provisioner != nil {
			return f.provisioner.Health(ctx, id)
		}
		return f.attacher.Health(ctx, id)
	}, nil)
}

// Unhealthy implements backend.Provisioner.
func (f *Faulty) Unhealthy(ctx context.Context) ([]volume.Health, error) {
	return answer(f, MethodUnhealthy, func() ([]volume.Health, error) { return f.provisioner.Unhealthy(ctx) }, nil)
}

// StorageHealth implements backend.Attacher.
func (f *Faulty) StorageHealth(ctx context.Context) ([]volume.PoolHealth, error) {
	return answer(f, MethodStorageHealth, func() ([]volume.PoolHealth, error) { return f.attacher.StorageHealth(ctx) }, nil)
}

// Headroom implements backend.Attacher.
func (f *Faulty) Headroom(id volume.ID) (volume.Bytes, bool) { return f.attacher.Headroom(id) }
