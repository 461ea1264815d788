package backendtest

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// CreateVolume implements backend.Provisioner. Its steps are
// create-volume/reserve, create-volume/build, create-volume/commit and, after
// the volume exists, create-volume/answer.
func (m *Memory) CreateVolume(ctx context.Context, spec volume.Spec) (volume.Volume, error) {
	v, err := m.createVolume(ctx, spec)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	return v, nil
}

func (m *Memory) createVolume(ctx context.Context, spec volume.Spec) (volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if spec.Name == "" {
		return volume.Volume{}, fmt.Errorf("%w: a volume needs a name", volume.ErrInvalid)
	}
	end, err := m.begin(volume.KindVolume, volume.HashName(spec.Name))
	if err != nil {
		return volume.Volume{}, err
	}
	defer end()

	plan, err := m.planVolume(spec)
	if err != nil {
		return volume.Volume{}, err
	}
	if plan.exists {
		return plan.volume, nil
	}
	id := plan.volume.ID
	if err := m.step(ctx, "create-volume/reserve"); err != nil {
		return volume.Volume{}, err
	}
	m.mu.Lock()
	err = plan.pool.reserveLocked(id, plan.volume.Size, volume.ErrNoSpace)
	m.mu.Unlock()
	if err != nil {
		return volume.Volume{}, err
	}
	defer m.unstage(plan.pool, id)

	if err := m.step(ctx, "create-volume/build"); err != nil {
		return volume.Volume{}, err
	}
	data, err := m.content(spec.Source)
	if err != nil {
		return volume.Volume{}, err
	}
	if err := m.step(ctx, "create-volume/commit"); err != nil {
		return volume.Volume{}, err
	}
	m.mu.Lock()
	delete(plan.pool.staging, id)
	plan.pool.volumes[id] = &memoryVolume{Volume: plan.volume, data: data}
	m.mu.Unlock()
	return plan.volume, m.step(ctx, "create-volume/answer")
}

// volumePlan is what CreateVolume has decided before it changes anything.
type volumePlan struct {
	pool   *memoryPool
	volume volume.Volume
	exists bool // under exactly this spec
}

func (m *Memory) planVolume(spec volume.Spec) (volumePlan, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pool, err := m.choosePoolLocked(spec)
	if err != nil {
		return volumePlan{}, err
	}
	for _, p := range m.pools {
		v, ok := p.volumes[volume.NewID(volume.KindVolume, p.ID, spec.Name)]
		if !ok || !p.Available {
			continue
		}
		if p != pool || !allows(spec.Allowed, p.ID) {
			return volumePlan{}, fmt.Errorf("%w: volume %q exists in pool %s (%s), asked for pool %q among %v",
				volume.ErrExists, spec.Name, p.Name, p.ID, pool.Name, spec.Allowed)
		}
		return volumePlan{pool: p, volume: v.Volume, exists: true}, v.Matches(spec)
	}
	if !allows(spec.Allowed, pool.ID) {
		return volumePlan{}, fmt.Errorf("%w: pool %s (%s) is not among the allowed %v: use a pool that can be reached from there",
			volume.ErrNoSpace, pool.Name, pool.ID, spec.Allowed)
	}
	if err := pool.availableLocked(); err != nil {
		return volumePlan{}, err
	}

	var inherited *volume.Format
	var floor, birth volume.Bytes
	if !spec.Source.IsZero() {
		src, err := m.sourceLocked(spec.Source)
		if err != nil {
			return volumePlan{}, err
		}
		inherited, floor, birth = &src.format, src.size, src.birth
	}
	format, err := spec.Format.Resolve(inherited)
	if err != nil {
		return volumePlan{}, err
	}
	size, err := volume.Fit(spec.Size, spec.Limit, max(floor, format.MinSize()))
	if err != nil {
		return volumePlan{}, err
	}
	if birth == 0 {
		birth = size
	}
	return volumePlan{pool: pool, volume: volume.Volume{
		ID: volume.NewID(volume.KindVolume, pool.ID, spec.Name), Name: spec.Name,
		Size: size, Format: format, Source: spec.Source,
		Created: m.now().Round(0), BirthSize: birth,
	}}, nil
}

// choosePoolLocked is the pool that a spec means, available or not.
func (m *Memory) choosePoolLocked(spec volume.Spec) (*memoryPool, error) {
	if spec.Source.Snapshot != "" && spec.Source.Volume != "" {
		return nil, fmt.Errorf("%w: a volume is made from a snapshot or from a volume, not from both", volume.ErrInvalid)
	}
	kind, source := volume.KindSnapshot, spec.Source.Snapshot
	if spec.Source.Volume != "" {
		kind, source = volume.KindVolume, spec.Source.Volume
	}
	name := spec.Pool
	switch {
	case source != "":
		// The source itself may be gone: a volume that was made from it still
		// answers to the same call.
		if _, err := volume.ParseID(kind, string(source)); err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		p := m.poolByID(source.Pool())
		if p == nil {
			return nil, fmt.Errorf("%w: pool %s of the source is not on this machine", volume.ErrUnavailable, source.Pool())
		}
		if name != "" && name != p.Name {
			return nil, fmt.Errorf("%w: the source is in pool %s, it cannot be copied to pool %q", volume.ErrInvalid, p.Name, name)
		}
		return p, nil
	case name == "" && len(m.pools) == 1:
		return m.pools[0], nil
	case name == "":
		name = "default"
	}
	if p := m.poolByName(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%w: there is no pool %q", volume.ErrInvalid, name)
}

// memorySource is what a copy needs to know of its source.
type memorySource struct {
	format      volume.Format
	size, birth volume.Bytes
	data        pages
}

func (m *Memory) sourceLocked(source volume.Source) (memorySource, error) {
	if source.Volume != "" {
		v, err := m.volumeLocked(source.Volume)
		if err != nil {
			return memorySource{}, fmt.Errorf("source: %w", err)
		}
		return memorySource{v.Format, v.Size, v.BirthSize, v.data}, nil
	}
	s, err := m.snapshotLocked(source.Snapshot)
	if err != nil {
		return memorySource{}, fmt.Errorf("source: %w", err)
	}
	return memorySource{s.Format, s.Size, s.BirthSize, s.data}, nil
}

// content is a copy of what is in the source now; nothing without a source.
func (m *Memory) content(source volume.Source) (pages, error) {
	if source.IsZero() {
		return pages{}, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	src, err := m.sourceLocked(source)
	if err != nil {
		return nil, err
	}
	return src.data.clone(), nil
}

// unstage takes back the promise to an object that did not come about. It does
// nothing after a commit.
func (m *Memory) unstage(p *memoryPool, id volume.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(p.staging, id)
}

// DeleteVolume implements backend.Provisioner. Its steps are
// delete-volume/trash and, when the volume is gone, delete-volume/free.
func (m *Memory) DeleteVolume(ctx context.Context, id volume.ID) error {
	err := m.remove(ctx, volume.KindVolume, id, "delete-volume", func(p *memoryPool) error {
		v, ok := p.volumes[id]
		if !ok {
			return nil
		}
		if d, ok := m.devices[id]; ok {
			return fmt.Errorf("%w: it is attached as %s: detach it first", volume.ErrInUse, d.path())
		}
		delete(p.volumes, id)
		p.trash[id] = v.Size
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	return nil
}

// remove moves an object to the trash by calling trashLocked, then empties the
// trash of it, also if an earlier call ended in between.
func (m *Memory) remove(ctx context.Context, kind volume.Kind, id volume.ID, op string, trashLocked func(*memoryPool) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	p, err := m.poolOfLocked(kind, id)
	m.mu.Unlock()
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	end, err := m.begin(kind, id.Hash())
	if err != nil {
		return err
	}
	defer end()

	if err := m.step(ctx, op+"/trash"); err != nil {
		return err
	}
	m.mu.Lock()
	err = trashLocked(p)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.step(ctx, op+"/free"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(p.trash, id)
	return nil
}

// ExpandVolume implements backend.Provisioner. Its steps are
// expand-volume/reserve, expand-volume/commit and, when the volume has its new
// size, expand-volume/answer.
func (m *Memory) ExpandVolume(ctx context.Context, id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
	v, err := m.expandVolume(ctx, id, size, limit)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("expand volume %s to %s: %w", id, size, err)
	}
	return v, nil
}

func (m *Memory) expandVolume(ctx context.Context, id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
	end, err := m.begin(volume.KindVolume, id.Hash())
	if err != nil {
		return volume.Volume{}, err
	}
	defer end()
	before, err := m.Volume(ctx, id)
	if err != nil {
		return volume.Volume{}, err
	}
	to, err := volume.Fit(size, limit, before.Size)
	if err != nil {
		return volume.Volume{}, err
	}
	if size <= before.Size {
		return before, nil
	}
	if err := m.step(ctx, "expand-volume/reserve"); err != nil {
		return volume.Volume{}, err
	}
	m.mu.Lock()
	p := m.poolByID(id.Pool())
	// Kubernetes can take back a growth that is out of range, not one that met a
	// full pool.
	err = p.reserveLocked(id, to-before.Size, volume.ErrOutOfRange)
	m.mu.Unlock()
	if err != nil {
		return volume.Volume{}, err
	}
	defer m.unstage(p, id)
	if err := m.step(ctx, "expand-volume/commit"); err != nil {
		return volume.Volume{}, err
	}
	m.mu.Lock()
	delete(p.staging, id)
	v := p.volumes[id]
	v.Size = to
	after := v.Volume
	m.mu.Unlock()
	return after, m.step(ctx, "expand-volume/answer")
}
