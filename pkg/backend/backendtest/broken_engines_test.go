package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func forgetsCreates() *broken {
	return &broken{create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		for _, p := range m.Pools() {
			if _, err := m.Volume(ctx, volume.NewID(volume.KindVolume, p.ID, spec.Name)); err == nil {
				return volume.Volume{}, volume.ErrExists
			}
		}
		return m.CreateVolume(ctx, spec)
	}}
}

func restamps() *broken {
	return &broken{create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		v, err := m.CreateVolume(ctx, spec)
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			v.Created = time.Now().Round(0)
			m.poolByID(v.ID.Pool()).volumes[v.ID].Created = v.Created
		}
		return v, err
	}}
}

func leavesLeftovers() *broken {
	var left []string
	return &broken{
		snapshot: func(ctx context.Context, m *Memory, spec volume.SnapshotSpec) (volume.Snapshot, error) {
			snap, err := m.CreateSnapshot(ctx, spec)
			if errors.Is(err, errFault) {
				left = append(left, "staging/"+spec.Name)
			}
			return snap, err
		},
		leftovers: func() []string { return left },
		restart:   func(*Memory) { left = nil },
	}
}

func listsUnsorted() *broken {
	return &broken{list: func(ctx context.Context, m *Memory) ([]volume.Volume, error) {
		all, err := m.Volumes(ctx)
		slices.SortFunc(all, func(a, b volume.Volume) int { return a.Created.Compare(b.Created) })
		return all, err
	}}
}

func listsDeleted() *broken {
	var gone []volume.Volume
	return &broken{
		remove: func(ctx context.Context, m *Memory, id volume.ID) error {
			if v, err := m.Volume(ctx, id); err == nil {
				gone = append(gone, v)
			}
			return m.DeleteVolume(ctx, id)
		},
		list: func(ctx context.Context, m *Memory) ([]volume.Volume, error) {
			all, err := m.Volumes(ctx)
			return sorted(append(all, gone...)), err
		},
	}
}

func sorted(all []volume.Volume) []volume.Volume {
	slices.SortFunc(all, func(a, b volume.Volume) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return slices.CompactFunc(all, func(a, b volume.Volume) bool { return a.ID == b.ID })
}

// halfListed is a list with volumes that are not complete.
type halfListed struct {
	mu   sync.Mutex
	half map[volume.ID]volume.Volume
}

func (h *halfListed) add(m *Memory, spec volume.Spec) volume.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := volume.NewID(volume.KindVolume, m.pools[0].ID, spec.Name)
	h.half[id] = volume.Volume{ID: id, Name: spec.Name, Created: time.Now()}
	return id
}

func (h *halfListed) remove(id volume.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.half, id)
}

func (h *halfListed) list(ctx context.Context, m *Memory) ([]volume.Volume, error) {
	all, err := m.Volumes(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.half {
		all = append(all, v)
	}
	return sorted(all), err
}

func listsHalfVolumes() *broken {
	h := &halfListed{half: map[volume.ID]volume.Volume{}}
	return &broken{list: h.list, create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		defer h.remove(h.add(m, spec))
		time.Sleep(3 * time.Millisecond)
		return m.CreateVolume(ctx, spec)
	}}
}

func keepsHalfVolumes() *broken {
	h := &halfListed{half: map[volume.ID]volume.Volume{}}
	return &broken{list: h.list, create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		v, err := m.CreateVolume(ctx, spec)
		if errors.Is(err, errFault) {
			h.add(m, spec)
		} else if err == nil {
			h.remove(v.ID)
		}
		return v, err
	}}
}

func snapshotsFollow() *broken {
	return &broken{create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		_, found := m.Volume(ctx, volume.NewID(volume.KindVolume, spec.Source.Snapshot.Pool(), spec.Name))
		v, err := m.CreateVolume(ctx, spec)
		if err != nil || spec.Source.Snapshot == "" || found == nil {
			return v, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		p := m.poolByID(v.ID.Pool())
		if snap := p.snapshots[spec.Source.Snapshot]; snap != nil {
			if source := p.volumes[snap.Source]; source != nil {
				p.volumes[v.ID].data = source.data.clone()
			}
		}
		return v, nil
	}}
}

func retakesSnapshots() *broken {
	return &broken{snapshot: func(ctx context.Context, m *Memory, spec volume.SnapshotSpec) (volume.Snapshot, error) {
		id := volume.NewID(volume.KindSnapshot, spec.Source.Pool(), spec.Name)
		if snap, err := m.Snapshot(ctx, id); err == nil && snap.Matches(spec) == nil {
			if err := m.DeleteSnapshot(ctx, id); err != nil {
				return volume.Snapshot{}, err
			}
		}
		return m.CreateSnapshot(ctx, spec)
	}}
}

func formatsAgain() *broken {
	return &broken{create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		v, err := m.CreateVolume(ctx, spec)
		if err == nil && spec.Source.IsZero() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.poolByID(v.ID.Pool()).volumes[v.ID].data = pages{}
		}
		return v, err
	}}
}

func clonesShare() *broken {
	return &broken{write: func(ctx context.Context, m *Memory, id volume.ID, p []byte, off int64) error {
		if v, err := m.Volume(ctx, id); err == nil && v.Source.Volume != "" {
			if err := m.WriteAt(ctx, v.Source.Volume, p, off); err != nil {
				return err
			}
		}
		return m.WriteAt(ctx, id, p, off)
	}}
}

func deletesOnce() *broken {
	return &broken{remove: func(ctx context.Context, m *Memory, id volume.ID) error {
		if _, err := m.Volume(ctx, id); err != nil {
			return err
		}
		return m.DeleteVolume(ctx, id)
	}}
}

func deletesAttached() *broken {
	return &broken{remove: func(ctx context.Context, m *Memory, id volume.ID) error {
		m.mu.Lock()
		delete(m.devices, id)
		m.mu.Unlock()
		return m.DeleteVolume(ctx, id)
	}}
}

func deletesSnapshotsToo() *broken {
	return &broken{remove: func(ctx context.Context, m *Memory, id volume.ID) error {
		all, err := m.Snapshots(ctx)
		for _, snap := range all {
			if snap.Source == id {
				err = errors.Join(err, m.DeleteSnapshot(ctx, snap.ID))
			}
		}
		return errors.Join(err, m.DeleteVolume(ctx, id))
	}}
}

func expandsToNoSpace() *broken {
	return &broken{expand: func(ctx context.Context, m *Memory, id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
		v, err := m.ExpandVolume(ctx, id, size, limit)
		if err != nil && size > 4*volume.GiB && size < volume.MaxSize {
			err = volume.ErrNoSpace
		}
		return v, err
	}}
}

func forgetsBirth() *broken {
	return &broken{create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		v, err := m.CreateVolume(ctx, spec)
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			v.BirthSize = v.Size
			m.poolByID(v.ID.Pool()).volumes[v.ID].BirthSize = v.Size
		}
		return v, err
	}}
}

func ignoresContext() *broken {
	return &broken{removeSnapshot: func(ctx context.Context, m *Memory, id volume.ID) error {
		return m.DeleteSnapshot(context.WithoutCancel(ctx), id)
	}}
}

func losesOnRestart() *broken {
	return &broken{restart: func(m *Memory) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for id := range m.pools[0].volumes {
			delete(m.pools[0].volumes, id)
			return
		}
	}}
}

func blamesRequest() *broken {
	return &broken{create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		v, err := m.CreateVolume(ctx, spec)
		if errors.Is(err, errFault) {
			err = fmt.Errorf("%w: %w", volume.ErrNotFound, err)
		}
		return v, err
	}}
}

func swallowsFaults() *broken {
	return &broken{snapshot: func(ctx context.Context, m *Memory, spec volume.SnapshotSpec) (volume.Snapshot, error) {
		snap, err := m.CreateSnapshot(ctx, spec)
		if errors.Is(err, errFault) {
			err = nil
		}
		return snap, err
	}}
}

func undoesTooMuch() *broken {
	return &broken{expand: func(ctx context.Context, m *Memory, id volume.ID, size, limit volume.Bytes) (volume.Volume, error) {
		v, err := m.ExpandVolume(ctx, id, size, limit)
		if errors.Is(err, errFault) {
			err = errors.Join(err, m.DeleteVolume(ctx, id))
		}
		return v, err
	}}
}

func attachesTwice() *broken {
	return &broken{attach: func(ctx context.Context, m *Memory, id volume.ID) (*backend.Device, error) {
		m.mu.Lock()
		delete(m.devices, id)
		m.mu.Unlock()
		return m.Attach(ctx, id)
	}}
}

func refreshesNothing() *broken {
	return &broken{refresh: func(context.Context, *Memory, volume.ID) error { return nil }}
}

func namesTwo() *broken {
	return &broken{snapshot: func(ctx context.Context, m *Memory, spec volume.SnapshotSpec) (volume.Snapshot, error) {
		snap, err := m.CreateSnapshot(ctx, spec)
		if errors.Is(err, volume.ErrNotFound) {
			err = fmt.Errorf("%w: %w", volume.ErrPrecondition, err)
		}
		return snap, err
	}}
}

func restoresOneByOne() *broken {
	var busy sync.Mutex
	return &broken{create: func(ctx context.Context, m *Memory, spec volume.Spec) (volume.Volume, error) {
		if spec.Source.Snapshot != "" {
			if !busy.TryLock() {
				return volume.Volume{}, volume.ErrBusy
			}
			defer busy.Unlock()
			time.Sleep(time.Millisecond)
		}
		return m.CreateVolume(ctx, spec)
	}}
}
