package backendtest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// MemoryPool describes a pool of Memory.
type MemoryPool struct {
	Name string
	// ID is drawn at random if it is empty.
	ID volume.PoolID
	// Size is what the pool can promise in total, in bytes: the sizes of all its
	// volumes and snapshots add up to at most that.
	Size volume.Bytes
}

// MemoryConfig describes a Memory.
type MemoryConfig struct {
	// Pools has at least one pool; names and ids do not repeat.
	Pools []MemoryPool
	// Fault is called before each step, without any lock held.
	Fault fault.Hook
	// Capabilities are all of them if this is nil.
	Capabilities *backend.Capabilities
	// Now is time.Now if it is nil.
	Now func() time.Time
}

// Memory is the reference engine: a backend.Provisioner and a backend.Attacher
// that keep the whole contract in memory. An error at a step undoes what was
// reserved; a deletion that ends half way leaves the trash to the same call made
// again, or to Restart. A second mutating call on an object that is being changed
// is ErrBusy. Memory has one lock, never held while a hook runs.
type Memory struct {
	caps  backend.Capabilities
	fault fault.Hook
	now   func() time.Time

	mu    sync.Mutex
	pools []*memoryPool // in order of configuration; the slice never changes
	// running holds the objects that a mutating call is working on.
	running map[runningKey]bool
	devices map[volume.ID]*memoryDevice
	sick    map[volume.ID][]volume.Condition // what Sicken said
	minors  uint32                           // the last minor number that was given to a device
}

// runningKey is what create by name and delete by id have in common.
type runningKey struct {
	kind volume.Kind
	hash string
}

type memoryPool struct {
	volume.Pool
	size      volume.Bytes
	volumes   map[volume.ID]*memoryVolume
	snapshots map[volume.ID]*memorySnapshot
	// staging and trash are promises that no object explains: of an object under
	// construction or growing, and of one that is deleted but not yet freed.
	staging map[volume.ID]volume.Bytes
	trash   map[volume.ID]volume.Bytes
}

type memoryVolume struct {
	volume.Volume
	data pages
}

type memorySnapshot struct {
	volume.Snapshot
	data pages
}

var (
	_ backend.Provisioner = (*Memory)(nil)
	_ backend.Attacher    = (*Memory)(nil)
)

// NewMemory makes an empty engine. It panics if the configuration has no pool or
// the same pool twice: that is a mistake in the test.
func NewMemory(cfg MemoryConfig) *Memory {
	m := &Memory{
		caps:    backend.Capabilities{Snapshots: true, Clones: true, Expansion: true},
		fault:   cfg.Fault,
		now:     cfg.Now,
		running: map[runningKey]bool{},
		devices: map[volume.ID]*memoryDevice{},
		sick:    map[volume.ID][]volume.Condition{},
	}
	if cfg.Capabilities != nil {
		m.caps = *cfg.Capabilities
	}
	if m.now == nil {
		m.now = time.Now
	}
	for _, p := range cfg.Pools {
		if p.ID == "" {
			p.ID = volume.NewPoolID()
		}
		if m.poolByName(p.Name) != nil || m.poolByID(p.ID) != nil {
			panic(fmt.Sprintf("backendtest: pool %q (%s) is configured twice", p.Name, p.ID))
		}
		m.pools = append(m.pools, &memoryPool{
			Pool:      volume.Pool{ID: p.ID, Name: p.Name, Available: true},
			size:      p.Size,
			volumes:   map[volume.ID]*memoryVolume{},
			snapshots: map[volume.ID]*memorySnapshot{},
			staging:   map[volume.ID]volume.Bytes{},
			trash:     map[volume.ID]volume.Bytes{},
		})
	}
	if len(m.pools) == 0 {
		panic("backendtest: a Memory needs at least one pool")
	}
	return m
}

// Unavailable takes the pool of this name away, as a disk that is pulled out:
// its objects are still in it when Available brings it back.
func (m *Memory) Unavailable(pool string) { m.setAvailable(pool, false, "taken away by the test") }

// Available brings back a pool that Unavailable took away.
func (m *Memory) Available(pool string) { m.setAvailable(pool, true, "") }

func (m *Memory) setAvailable(pool string, available bool, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.poolByName(pool)
	if p == nil {
		panic(fmt.Sprintf("backendtest: there is no pool %q", pool))
	}
	p.Available, p.Reason = available, reason
}

// Restart does what an engine does when it starts: it finishes or undoes what
// operations that ended half way left behind. None may be running.
func (m *Memory) Restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		clear(p.staging)
		clear(p.trash)
	}
}

// Leftovers are the promises that no object explains, one line each.
func (m *Memory) Leftovers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []string
	for _, p := range m.pools {
		for id, size := range p.staging {
			left = append(left, fmt.Sprintf("pool %s: staging/%s: %s", p.Name, id, size))
		}
		for id, size := range p.trash {
			left = append(left, fmt.Sprintf("pool %s: trash/%s: %s", p.Name, id, size))
		}
	}
	slices.Sort(left)
	return left
}

// Capabilities implements backend.Provisioner.
func (m *Memory) Capabilities() backend.Capabilities { return m.caps }

// Pools implements backend.Provisioner and backend.Attacher.
func (m *Memory) Pools() []volume.Pool {
	m.mu.Lock()
	defer m.mu.Unlock()
	pools := make([]volume.Pool, 0, len(m.pools))
	for _, p := range m.pools {
		pools = append(pools, p.Pool)
	}
	return pools
}

// Capacity implements backend.Provisioner.
func (m *Memory) Capacity(ctx context.Context, pool string, allowed []volume.PoolID) (backend.Capacity, error) {
	if err := ctx.Err(); err != nil {
		return backend.Capacity{}, fmt.Errorf("capacity of pool %q: %w", pool, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var c backend.Capacity
	for _, p := range m.pools {
		if !p.Available || pool != "" && p.Name != pool || !allows(allowed, p.ID) {
			continue
		}
		free := p.freeLocked()
		c.Available += free
		if largest := min(free, volume.MaxSize) / volume.Alignment * volume.Alignment; largest >= volume.MiB {
			c.MaxVolume = max(c.MaxVolume, largest)
		}
	}
	return c, nil
}

// Volume implements backend.Provisioner and backend.Attacher.
func (m *Memory) Volume(ctx context.Context, id volume.ID) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, fmt.Errorf("find volume %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.volumeLocked(id)
	if err != nil {
		return volume.Volume{}, err
	}
	return v.Volume, nil
}

// Volumes implements backend.Provisioner.
func (m *Memory) Volumes(ctx context.Context) ([]volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []volume.Volume
	for _, p := range m.pools {
		if p.Available {
			for _, v := range p.volumes {
				all = append(all, v.Volume)
			}
		}
	}
	slices.SortFunc(all, func(a, b volume.Volume) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// Snapshot implements backend.Provisioner.
func (m *Memory) Snapshot(ctx context.Context, id volume.ID) (volume.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return volume.Snapshot{}, fmt.Errorf("find snapshot %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.snapshotLocked(id)
	if err != nil {
		return volume.Snapshot{}, err
	}
	return s.Snapshot, nil
}

// Snapshots implements backend.Provisioner.
func (m *Memory) Snapshots(ctx context.Context) ([]volume.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []volume.Snapshot
	for _, p := range m.pools {
		if p.Available {
			for _, s := range p.snapshots {
				all = append(all, s.Snapshot)
			}
		}
	}
	slices.SortFunc(all, func(a, b volume.Snapshot) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// begin says that a mutating call works on an object; the function that it
// returns says that it ended.
func (m *Memory) begin(kind volume.Kind, hash string) (end func(), err error) {
	key := runningKey{kind, hash}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running[key] {
		return nil, fmt.Errorf("%w: on %s %s: try again when it has ended", volume.ErrBusy, kind, hash)
	}
	m.running[key] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.running, key)
	}, nil
}

// step announces a step and gives up if the context has ended.
func (m *Memory) step(ctx context.Context, name string) error {
	if err := m.fault.At(name); err != nil {
		return err
	}
	return ctx.Err()
}

func (m *Memory) poolByName(name string) *memoryPool {
	return m.findPool(func(p *memoryPool) bool { return p.Name == name })
}

func (m *Memory) poolByID(id volume.PoolID) *memoryPool {
	return m.findPool(func(p *memoryPool) bool { return p.ID == id })
}

func (m *Memory) findPool(match func(*memoryPool) bool) *memoryPool {
	if i := slices.IndexFunc(m.pools, match); i >= 0 {
		return m.pools[i]
	}
	return nil
}

// poolOfLocked is the pool that an id of this kind points to. It is ErrNotFound
// for an id that no object of this kind can have, ErrUnavailable if the pool is
// not here or is away.
func (m *Memory) poolOfLocked(kind volume.Kind, id volume.ID) (*memoryPool, error) {
	if _, err := volume.ParseID(kind, string(id)); err != nil {
		return nil, err
	}
	p := m.poolByID(id.Pool())
	if p == nil {
		return nil, fmt.Errorf("%w: pool %s of %s is not on this machine", volume.ErrUnavailable, id.Pool(), id)
	}
	return p, p.availableLocked()
}

func (m *Memory) volumeLocked(id volume.ID) (*memoryVolume, error) {
	p, err := m.poolOfLocked(volume.KindVolume, id)
	if err != nil {
		return nil, err
	}
	v, ok := p.volumes[id]
	if !ok {
		return nil, fmt.Errorf("%w: volume %s", volume.ErrNotFound, id)
	}
	return v, nil
}

func (m *Memory) snapshotLocked(id volume.ID) (*memorySnapshot, error) {
	p, err := m.poolOfLocked(volume.KindSnapshot, id)
	if err != nil {
		return nil, err
	}
	s, ok := p.snapshots[id]
	if !ok {
		return nil, fmt.Errorf("%w: snapshot %s", volume.ErrNotFound, id)
	}
	return s, nil
}

func (p *memoryPool) availableLocked() error {
	if p.Available {
		return nil
	}
	return fmt.Errorf("%w: pool %s (%s): %s: bring it back", volume.ErrUnavailable, p.Name, p.ID, p.Reason)
}

func (p *memoryPool) freeLocked() volume.Bytes {
	free := p.size
	for _, v := range p.volumes {
		free -= v.Size
	}
	for _, s := range p.snapshots {
		free -= s.Size
	}
	for size := range maps.Values(p.staging) {
		free -= size
	}
	for size := range maps.Values(p.trash) {
		free -= size
	}
	return max(free, 0)
}

// reserveLocked promises size more bytes to an object under construction, or
// gives the refusal, a sentinel.
func (p *memoryPool) reserveLocked(id volume.ID, size volume.Bytes, refusal error) error {
	if free := p.freeLocked(); size > free {
		return fmt.Errorf("%w: pool %s can promise %s, %s is needed: delete something or use another pool",
			refusal, p.Name, free, size)
	}
	p.staging[id] = size
	return nil
}

func allows(allowed []volume.PoolID, id volume.PoolID) bool {
	return len(allowed) == 0 || slices.Contains(allowed, id)
}
