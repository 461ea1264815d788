package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/disk"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// PoolConfig is one --pool of the command line.
type PoolConfig struct {
	// Name is how StorageClasses speak of the pool: 1 to 32 of [a-z0-9-].
	Name string
	// Filesystem is what a new pool is made with; "" means FilesystemBtrfs. One that
	// exists keeps its own.
	Filesystem string
	// Dir is the pool's directory; with Size, the directory that holds its image.
	Dir string
	// Device is the block device that Init makes a pool of, or that Adopt takes for
	// one, with Dir as its mountpoint; "" if there is none. Once it is registered it
	// is known by the UUID of its filesystem, whatever its name.
	Device string
	// Size of the pool image in bytes; 0 means that Dir itself is on btrfs or
	// XFS and was prepared with Init.
	Size volume.Bytes
}

// Config is what a Backend needs.
type Config struct {
	Pools []PoolConfig
	// StateDir is a directory outside all pools that survives reboots: it
	// remembers which pools exist and which filesystems are frozen.
	StateDir string
	Runner   command.Runner
	// HostReserve is the least share (0 to 1) of the host's filesystem that must
	// stay free when a pool image is made.
	HostReserve float64
	// Overcommit is how many times over a pool may be promised: 1 or more; 0 means
	// 1, with which no volume ever meets a full pool.
	Overcommit float64
	// TrimInterval is how often what was deleted inside volumes is given back to a
	// pool that overcommits; 0 means never.
	TrimInterval time.Duration
	// FreezeTimeout bounds how long a filesystem may stay frozen for a snapshot;
	// 0 means DefaultFreezeTimeout.
	FreezeTimeout time.Duration
	// Notice is told what an administrator should know and no caller gets as an
	// error, such as an orphan that was quarantined. It may be nil.
	Notice func(reason Reason, text string)
	Fault  fault.Hook
}

const maxOvercommit = 1000

// DefaultFreezeTimeout is far above any snapshot that was measured and below
// what makes an application give up.
const DefaultFreezeTimeout = 10 * time.Second

// DefaultHostReserve keeps the host clear of kubelet's eviction thresholds,
// which by default are 10 % for its own filesystem and 15 % for images.
const DefaultHostReserve = 0.15

// Backend is the engine. It implements backend.Provisioner and
// backend.Attacher.
type Backend struct {
	cfg     Config
	slots   []*slot
	state   *os.Root
	intents intents
	started atomic.Bool // Start has ended: kubelet may know the pools
	health  *health
	tallies map[string]*tally // by the name of the pool
	marks   marks
	memory  volume.Bytes // more than can be dirty

	guardTold trouble // under mu

	disks disk.Search
	loops loop.Index // so that a call a minute for each of a thousand volumes costs little

	// mu comes before slot.mu and is never held for long.
	mu          sync.Mutex
	busy        map[string]bool   // kind and hash of the name of what is being changed
	filesystems map[string]string // UUID of a filesystem -> the pool that has it
}

var (
	_ backend.Provisioner = (*Backend)(nil)
	_ backend.Attacher    = (*Backend)(nil)
)

var poolName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// New checks the configuration and opens the state directory. It opens no pool:
// see Start.
func New(cfg Config) (*Backend, error) {
	if cfg.FreezeTimeout == 0 {
		cfg.FreezeTimeout = DefaultFreezeTimeout
	}
	if cfg.Notice == nil {
		cfg.Notice = func(Reason, string) {}
	}
	if cfg.Overcommit == 0 {
		cfg.Overcommit = 1
	}
	if !(cfg.Overcommit >= 1 && cfg.Overcommit <= maxOvercommit) {
		return nil, fmt.Errorf("%w: overcommit %g: want 1 to %d", volume.ErrInvalid, cfg.Overcommit, maxOvercommit)
	}
	if len(cfg.Pools) == 0 {
		return nil, fmt.Errorf("%w: no pool is configured: give at least one --pool=[NAME=]DIR", volume.ErrInvalid)
	}
	memory, err := dirtyMemory()
	if err != nil {
		return nil, err
	}
	b := &Backend{cfg: cfg, memory: memory, busy: map[string]bool{}, filesystems: map[string]string{}}
	for i, pc := range cfg.Pools {
		if err := checkPoolConfig(pc, cfg.Pools[:i]); err != nil {
			return nil, err
		}
		pc.Dir = filepath.Clean(pc.Dir)
		pc.Size = pc.Size.RoundUp(volume.Alignment) // a device has whole sectors
		b.slots = append(b.slots, &slot{cfg: pc, backend: b, reason: errors.New("not opened yet")})
	}
	for _, pc := range cfg.Pools {
		if rel, err := filepath.Rel(pc.Dir, cfg.StateDir); err == nil && filepath.IsLocal(rel) {
			return nil, fmt.Errorf("%w: the state directory %s is inside pool %s (%s) and would be lost with it; put it elsewhere", volume.ErrInvalid, cfg.StateDir, pc.Name, pc.Dir)
		}
	}
	state, err := openState(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	b.state, b.intents, b.marks = state, intents{state}, marks{state}
	b.health, b.tallies = newHealth(b.slots), newTallies(b.slots)
	return b, nil
}

func checkPoolConfig(pc PoolConfig, others []PoolConfig) error {
	if !poolName.MatchString(pc.Name) {
		return fmt.Errorf("%w: pool name %q: want 1 to 32 of a-z, 0-9 and -", volume.ErrInvalid, pc.Name)
	}
	if !filepath.IsAbs(pc.Dir) {
		return fmt.Errorf("%w: directory %q of pool %s: want an absolute path", volume.ErrInvalid, pc.Dir, pc.Name)
	}
	if err := checkNotBelowDev(pc); err != nil {
		return err
	}
	if err := checkFilesystem(pc.Filesystem); err != nil {
		return fmt.Errorf("pool %s: %w", pc.Name, err)
	}
	if pc.Size != 0 && pc.Size < minPoolSize {
		return fmt.Errorf("%w: pool %s: size %s is below the smallest pool image, %s", volume.ErrInvalid, pc.Name, pc.Size, minPoolSize)
	}
	for _, o := range others {
		if o.Name == pc.Name || filepath.Clean(o.Dir) == filepath.Clean(pc.Dir) {
			return fmt.Errorf("%w: pools %s=%s and %s=%s share a name or a directory", volume.ErrInvalid, o.Name, o.Dir, pc.Name, pc.Dir)
		}
	}
	return nil
}

// Start opens the pools, finishes what a crash left behind, and thaws what it
// left frozen. A pool that cannot be opened stays unavailable (see Pools) and
// Run tries it again; that is not an error.
func (b *Backend) Start(ctx context.Context) error {
	b.thawLeft(ctx)
	if err := writeOvercommit(b.state, b.cfg.Overcommit); err != nil {
		b.notice(PoolUnmeasured, "%v; driver pool status may show the room of another --overcommit", err)
	}
	var group sync.WaitGroup
	for _, s := range b.slots {
		// One whose disk does not answer keeps its place in the node's topology.
		if reg, err := findRegistration(b.state, s.cfg); err == nil {
			s.know(reg.PoolID)
		}
		group.Go(func() { s.tryOpen(ctx) })
	}
	opened := make(chan struct{})
	go func() {
		group.Wait()
		close(opened)
	}()
	select {
	case <-opened:
	case <-time.After(startWait):
		b.notice(PoolSlow, "not all pools could be opened in %s; starting with the others, and these follow when their disks answer", startWait)
	case <-ctx.Done():
	}
	b.started.Store(true)
	return ctx.Err()
}

// startWait bounds how long a disk that does not answer holds up the pools that
// do.
const startWait = 20 * time.Second

// retryInterval is how often Run looks at pools that are away and at work that
// is left over.
const retryInterval = 5 * time.Second

// Run empties the trash, opens pools that have come back, and thaws what could
// not be thawed before, until ctx ends.
func (b *Backend) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, s := range b.slots {
		group.Go(func() { s.run(ctx) })
		group.Go(func() { s.runMeasure(ctx) })
		group.Go(func() { s.runGuard(ctx) })
		group.Go(func() { s.runTrim(ctx) })
		group.Go(func() { s.runRewrite(ctx) })
	}
	group.Go(func() { b.thawUntil(ctx) })
	group.Go(func() { b.watchHealth(ctx) })
	group.Wait()
}

// thawLeft thaws what a driver that died has left frozen.
func (b *Backend) thawLeft(ctx context.Context) {
	ids, err := b.intents.list()
	if err != nil {
		b.notice(ThawFailed, "%v", err)
		return
	}
	for _, id := range ids {
		if err := b.thawLeftOf(ctx, id); err != nil {
			b.notice(ThawFailed, "%v", err)
		}
	}
}

// leftFrozen is told of a volume whose freeze nobody held any more.
const leftFrozen = "a driver that died had left the filesystem of %s frozen, or one that lives could not thaw it; thawed"

func (b *Backend) thawLeftOf(ctx context.Context, id volume.ID) error {
	frozen, err := b.intents.thawLeft(ctx, id)
	if frozen {
		b.notice(FreezeThawed, leftFrozen, id)
		b.countThaw(id)
	}
	return err
}

func (b *Backend) thawUntil(ctx context.Context) {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.thawLeft(ctx)
		}
	}
}

// Close lets go of the pools. They stay mounted and their volumes attached.
func (b *Backend) Close() error {
	var errs []error
	for _, s := range b.slots {
		errs = append(errs, s.close())
	}
	return errors.Join(append(errs, b.state.Close())...)
}

// Capabilities implements backend.Provisioner.
func (b *Backend) Capabilities() backend.Capabilities {
	return backend.Capabilities{Snapshots: true, Clones: true, Expansion: true}
}

// Pools implements backend.Provisioner and backend.Attacher.
func (b *Backend) Pools() []volume.Pool {
	var out []volume.Pool
	for _, s := range b.slots {
		out = append(out, s.describe())
	}
	return out
}

// claimFilesystem refuses a filesystem that has another pool already: both would
// promise the same space.
func (b *Backend) claimFilesystem(uuid, pool string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other, ok := b.filesystems[uuid]; ok && other != pool {
		return fmt.Errorf("%w: pool %s is on the same filesystem as pool %s, and both would promise its space; use one of them", volume.ErrPrecondition, pool, other)
	}
	b.filesystems[uuid] = pool
	return nil
}

// begin marks the object of a name, in whatever pool, as being changed until end
// is called. It is ErrBusy if it is marked already: callers serialize by object,
// this is for the case that they do not.
func (b *Backend) begin(ctx context.Context, kind volume.Kind, hash string) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("the caller has given up: %w", context.Cause(ctx))
	}
	key := string(kind) + "." + hash
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.busy[key] {
		return nil, fmt.Errorf("%w: on the %s with the name hash %s", volume.ErrBusy, kind, hash)
	}
	b.busy[key] = true
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.busy, key)
	}, nil
}

// isBusy says whether an object is being changed.
func (b *Backend) isBusy(id volume.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.busy[string(id.Kind())+"."+id.Hash()]
}

// available are the pools that can be used now.
func (b *Backend) available() []*pool {
	var out []*pool
	for _, s := range b.slots {
		if p, err := s.get(); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// poolOf is the open pool of an object. It is ErrNotFound for an id that this
// engine cannot have made, and ErrUnavailable for every pool that is not open
// here: another machine may well have it.
func (b *Backend) poolOf(kind volume.Kind, id volume.ID) (*pool, error) {
	if _, err := volume.ParseID(kind, string(id)); err != nil {
		return nil, err
	}
	for _, s := range b.slots {
		if s.describe().ID == id.Pool() {
			return s.get()
		}
	}
	return nil, fmt.Errorf("%w: pool %s of %s is not on this machine; if its disk was moved here, start the driver with --pool for it%s", volume.ErrUnavailable, id.Pool(), id, b.strangers())
}

// strangers says why pools are away of which nobody knows yet who they are.
func (b *Backend) strangers() string {
	var out strings.Builder
	for _, s := range b.slots {
		if d := s.describe(); d.ID == "" {
			fmt.Fprintf(&out, "; it may be pool %s, which cannot be used: %s", d.Name, d.Reason)
		}
	}
	return out.String()
}

// choosePool picks the pool of a new volume that has no source.
func (b *Backend) choosePool(spec volume.Spec) (*pool, error) {
	name := spec.Pool
	if name == "" && len(b.slots) > 1 {
		name = b.preferredName(spec.Allowed)
	}
	for _, s := range b.slots {
		if name != "" && s.cfg.Name != name {
			continue
		}
		p, err := s.get()
		if err != nil {
			return nil, err
		}
		return p, p.checkAllowed(spec.Allowed)
	}
	if spec.Pool == "" {
		return nil, fmt.Errorf("%w: the class names no pool, there are several and none is called default; set the class parameter pool to one of: %s", volume.ErrInvalid, b.poolNames())
	}
	return nil, fmt.Errorf("%w: there is no pool %q on this machine; set the class parameter pool to one of: %s", volume.ErrInvalid, spec.Pool, b.poolNames())
}

// preferredName is the pool of a class that names none: "default", unless the
// topology forbids it; then the first pool that it allows.
func (b *Backend) preferredName(allowed []volume.PoolID) string {
	const preferred = "default"
	byID := map[volume.PoolID]string{}
	for _, p := range b.Pools() {
		byID[p.ID] = p.Name
		if p.Name == preferred && (len(allowed) == 0 || slices.Contains(allowed, p.ID)) {
			return preferred
		}
	}
	for _, id := range allowed {
		if name, ok := byID[id]; ok {
			return name
		}
	}
	return preferred
}

func (b *Backend) poolNames() string {
	var names []string
	for _, s := range b.slots {
		names = append(names, s.cfg.Name)
	}
	return strings.Join(names, ", ")
}

// Capacity implements backend.Provisioner.
func (b *Backend) Capacity(_ context.Context, name string, allowed []volume.PoolID) (backend.Capacity, error) {
	var out backend.Capacity
	for _, p := range b.available() {
		if name != "" && p.name != name || p.checkAllowed(allowed) != nil {
			continue
		}
		room, err := p.room()
		if err != nil { // the others have room all the same
			b.notice(PoolUnmeasured, "pool %s: measure its room: %v; it is left out of the capacity until that works", p.name, err)
			continue
		}
		out.Available += room
		out.MaxVolume = max(out.MaxVolume, min(room, volume.MaxSize))
	}
	return out, nil
}

func (p *pool) checkAllowed(allowed []volume.PoolID) error {
	if len(allowed) == 0 || slices.Contains(allowed, p.id) {
		return nil
	}
	return fmt.Errorf("%w: pool %s (%s) is not in the topology that was asked for", volume.ErrNoSpace, p.name, p.id)
}
