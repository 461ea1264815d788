package backendtest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// firstFailure runs the suite until it finds something wrong with an engine.
func firstFailure(t *testing.T, newEngine NewEngine) error {
	for _, sc := range scenarios() {
		r := newRig(t, newEngine)
		if sc.skip(r.engine) != "" {
			continue
		}
		for _, w := range ways() {
			if !w.fits(sc) || w.skip(r.engine, false) != "" {
				continue
			}
			if err := r.check(sc, w); err != nil {
				return fmt.Errorf("%s, %s: %w", sc.name, w.name, err)
			}
		}
	}
	return nil
}

// broken is Memory with one promise broken: what is set replaces the method.
type broken struct {
	*Memory
	create         func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error)
	remove         func(ctx context.Context, m *Memory, id volume.ID) error
	expand         func(ctx context.Context, m *Memory, id volume.ID, size, limit volume.Bytes) (volume.Volume, error)
	snapshot       func(ctx context.Context, m *Memory, spec volume.SnapshotSpec) (volume.Snapshot, error)
	removeSnapshot func(ctx context.Context, m *Memory, id volume.ID) error
	list           func(ctx context.Context, m *Memory) ([]volume.Volume, error)
	attach         func(ctx context.Context, m *Memory, id volume.ID) (*backend.Device, error)
	health         func(ctx context.Context, m *Memory, id volume.ID) ([]volume.Condition, error)
	unhealthy      func(ctx context.Context, m *Memory) ([]volume.Health, error)
	storage        func(ctx context.Context, m *Memory) ([]volume.PoolHealth, error)
	refresh        func(ctx context.Context, m *Memory, id volume.ID) error
	write          func(ctx context.Context, m *Memory, id volume.ID, p []byte, off int64) error
	leftovers      func() []string
	restart        func(m *Memory)
	deafToHook     bool
}

func (b *broken) CreateVolume(ctx context.Context, spec volume.Spec) (volume.Volume, error) {
	if b.create == nil {
		return b.Memory.CreateVolume(ctx, spec)
	}
	return b.create(ctx, b.Memory, spec)
}

func (b *broken) DeleteVolume(ctx context.Context, id volume.ID) error {
	if b.remove == nil {
		return b.Memory.DeleteVolume(ctx, id)
	}
	return b.remove(ctx, b.Memory, id)
}

func (b *broken) ExpandVolume(ctx context.Context, id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
	if b.expand == nil {
		return b.Memory.ExpandVolume(ctx, id, size, limit)
	}
	return b.expand(ctx, b.Memory, id, size, limit)
}

func (b *broken) CreateSnapshot(ctx context.Context, spec volume.SnapshotSpec) (volume.Snapshot, error) {
	if b.snapshot == nil {
		return b.Memory.CreateSnapshot(ctx, spec)
	}
	return b.snapshot(ctx, b.Memory, spec)
}

func (b *broken) DeleteSnapshot(ctx context.Context, id volume.ID) error {
	if b.removeSnapshot == nil {
		return b.Memory.DeleteSnapshot(ctx, id)
	}
	return b.removeSnapshot(ctx, b.Memory, id)
}

func (b *broken) Volumes(ctx context.Context) ([]volume.Volume, error) {
	if b.list == nil {
		return b.Memory.Volumes(ctx)
	}
	return b.list(ctx, b.Memory)
}

func (b *broken) Attach(ctx context.Context, id volume.ID) (*backend.Device, error) {
	if b.attach == nil {
		return b.Memory.Attach(ctx, id)
	}
	return b.attach(ctx, b.Memory, id)
}

func (b *broken) Health(ctx context.Context, id volume.ID) ([]volume.Condition, error) {
	if b.health == nil {
		return b.Memory.Health(ctx, id)
	}
	return b.health(ctx, b.Memory, id)
}

func (b *broken) Unhealthy(ctx context.Context) ([]volume.Health, error) {
	if b.unhealthy == nil {
		return b.Memory.Unhealthy(ctx)
	}
	return b.unhealthy(ctx, b.Memory)
}

func (b *broken) StorageHealth(ctx context.Context) ([]volume.PoolHealth, error) {
	if b.storage == nil {
		return b.Memory.StorageHealth(ctx)
	}
	return b.storage(ctx, b.Memory)
}

func (b *broken) Refresh(ctx context.Context, id volume.ID) error {
	if b.refresh == nil {
		return b.Memory.Refresh(ctx, id)
	}
	return b.refresh(ctx, b.Memory, id)
}

func (b *broken) WriteAt(ctx context.Context, id volume.ID, p []byte, off int64) error {
	if b.write == nil {
		return b.Memory.WriteAt(ctx, id, p, off)
	}
	return b.write(ctx, b.Memory, id, p, off)
}

// engine makes a new Memory for the broken promise.
func (b *broken) engine(_ testing.TB, hook fault.Hook) Engine {
	if b.deafToHook {
		hook = nil
	}
	b.Memory = twoPools(hook)
	e := b.Memory.Engine()
	e.Provisioner, e.Attacher, e.Content = b, b, b
	if b.leftovers != nil {
		e.Leftovers = b.leftovers
	}
	e.Reopen = func() (Engine, error) {
		b.Restart()
		if b.restart != nil {
			b.restart(b.Memory)
		}
		return e, nil
	}
	return e
}

func twoPools(hook fault.Hook) *Memory {
	return NewMemory(MemoryConfig{
		Pools: []MemoryPool{{Name: "default", Size: 4 * volume.GiB}, {Name: "fast", Size: 4 * volume.GiB}},
		Fault: hook,
	})
}

func TestSuiteFindsNothingWrongWithMemory(t *testing.T) {
	if err := firstFailure(t, (&broken{}).engine); err != nil {
		t.Error(err)
	}
}

func TestSuiteCatchesBrokenEngines(t *testing.T) {
	for name, c := range map[string]struct {
		engine func() *broken
		want   string // in the message that it is caught with
	}{
		"forgets that it has created a volume":            {forgetsCreates, "already exists"},
		"gives another answer when a call is repeated":    {restamps, "gives another answer"},
		"leaves something behind after a fault":           {leavesLeftovers, "there are leftovers"},
		"lists in no order":                               {listsUnsorted, "not in order of ID"},
		"lists what was deleted":                          {listsDeleted, "deleted, but still listed"},
		"lists half a volume during a create":             {listsHalfVolumes, "has a size that it cannot have"},
		"lists half a volume after a fault":               {keepsHalfVolumes, "has a size that it cannot have"},
		"has snapshots that follow their source":          {snapshotsFollow, "holds 'n' at byte 0, want 'o'"},
		"takes a snapshot anew when asked again":          {retakesSnapshots, "gives another answer"},
		"formats again when asked again":                  {formatsAgain, "holds '\\x00'"},
		"writes through a clone to its source":            {clonesShare, "want 'o'"},
		"does not know what it has deleted":               {deletesOnce, "not found"},
		"deletes under a pod":                             {deletesAttached, "it succeeds"},
		"deletes the snapshots of a volume":               {deletesSnapshotsToo, "not found"},
		"takes a full pool for a full pool":               {expandsToNoSpace, "want exactly one of"},
		"forgets the size at birth":                       {forgetsBirth, "BirthSize"},
		"ignores that the context has ended":              {ignoresContext, "want its error"},
		"loses a volume in a restart":                     {losesOnRestart, "a restart changes the objects"},
		"says that a fault is a wrong request":            {blamesRequest, "says that the request is wrong"},
		"succeeds where it failed":                        {swallowsFaults, "the id of the snap"},
		"undoes what was there before a fault":            {undoesTooMuch, "not found"},
		"attaches a volume twice":                         {attachesTwice, "the device was"},
		"does not refresh":                                {refreshesNothing, "the device of the expanded volume"},
		"names two sentinels":                             {namesTwo, "the error wraps"},
		"never calls its hook":                            {func() *broken { return &broken{deafToHook: true} }, "its hook is not called"},
		"says that all is well in a pool that is away":    {missesNoPool, "want it inaccessible"},
		"does not know the health of a pool that is away": {refusesHealth, "Health in a pool that is away"},
		"has health for what does not exist":              {everybodyIsWell, "does not exist"},
		"lists what is well":                              {listsTheHealthy, "with which nothing is wrong"},
		"lists the sick in no order":                      {sickInNoOrder, "not in order of id"},
		"leaves out a pool":                               {forgetsAPool, "entries for"},
		"turns away all but one restore":                  {restoresOneByOne, "another operation is running"},
	} {
		t.Run(name, func(t *testing.T) {
			err := firstFailure(t, c.engine().engine)
			switch {
			case err == nil:
				t.Error("an engine that " + name + " passes the suite")
			case !strings.Contains(err.Error(), c.want):
				t.Errorf("caught, but not with %q: %v", c.want, err)
			default:
				t.Logf("caught: %v", err)
			}
		})
	}
}
