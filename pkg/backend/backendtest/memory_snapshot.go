package backendtest

import (
	"context"
	"fmt"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// CreateSnapshot implements backend.Provisioner. Its steps are
// create-snapshot/reserve, create-snapshot/commit and, when the snapshot exists,
// create-snapshot/answer. A snapshot is promised its whole size: that is what
// its source may come to need for itself.
func (m *Memory) CreateSnapshot(ctx context.Context, spec volume.SnapshotSpec) (volume.Snapshot, error) {
	s, err := m.createSnapshot(ctx, spec)
	if err != nil {
		return volume.Snapshot{}, fmt.Errorf("create snapshot %q of %s: %w", spec.Name, spec.Source, err)
	}
	return s, nil
}

func (m *Memory) createSnapshot(ctx context.Context, spec volume.SnapshotSpec) (volume.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return volume.Snapshot{}, err
	}
	if spec.Name == "" {
		return volume.Snapshot{}, fmt.Errorf("%w: a snapshot needs a name", volume.ErrInvalid)
	}
	end, err := m.begin(volume.KindSnapshot, volume.HashName(spec.Name))
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer end()

	s, p, exists, err := m.planSnapshot(spec)
	if err != nil || exists {
		return s, err
	}
	if err := m.step(ctx, "create-snapshot/reserve"); err != nil {
		return volume.Snapshot{}, err
	}
	m.mu.Lock()
	err = p.reserveLocked(s.ID, s.Size, volume.ErrNoSpace)
	m.mu.Unlock()
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer m.unstage(p, s.ID)
	if err := m.step(ctx, "create-snapshot/commit"); err != nil {
		return volume.Snapshot{}, err
	}
	if err := m.commitSnapshot(p, s); err != nil {
		return volume.Snapshot{}, err
	}
	return s, m.step(ctx, "create-snapshot/answer")
}

func (m *Memory) planSnapshot(spec volume.SnapshotSpec) (s volume.Snapshot, p *memoryPool, exists bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		if s, ok := p.snapshots[volume.NewID(volume.KindSnapshot, p.ID, spec.Name)]; ok && p.Available {
			return s.Snapshot, p, true, s.Matches(spec)
		}
	}
	src, err := m.volumeLocked(spec.Source)
	if err != nil {
		return volume.Snapshot{}, nil, false, fmt.Errorf("source: %w", err)
	}
	p = m.poolByID(src.ID.Pool())
	return volume.Snapshot{
		ID: volume.NewID(volume.KindSnapshot, p.ID, spec.Name), Name: spec.Name, Source: src.ID,
		Size: src.Size, Format: src.Format, Consistency: spec.Consistency,
		Created: m.now().Round(0), BirthSize: src.BirthSize,
	}, p, false, nil
}

// commitSnapshot makes the snapshot exist. The source may have grown or gone
// since the plan was made.
func (m *Memory) commitSnapshot(p *memoryPool, s volume.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	src, err := m.volumeLocked(s.Source)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if src.Size != s.Size {
		return fmt.Errorf("%w: the source is growing: try again", volume.ErrBusy)
	}
	delete(p.staging, s.ID)
	p.snapshots[s.ID] = &memorySnapshot{Snapshot: s, data: src.data.clone()}
	return nil
}

// DeleteSnapshot implements backend.Provisioner. Its steps are
// delete-snapshot/trash and, when the snapshot is gone, delete-snapshot/free.
func (m *Memory) DeleteSnapshot(ctx context.Context, id volume.ID) error {
	err := m.remove(ctx, volume.KindSnapshot, id, "delete-snapshot", func(p *memoryPool) error {
		if s, ok := p.snapshots[id]; ok {
			delete(p.snapshots, id)
			p.trash[id] = s.Size
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return nil
}
