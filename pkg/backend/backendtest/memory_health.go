package backendtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// PoolMissing is the reason of Memory for a pool that is away.
const PoolMissing = "PoolMissing"

// Sicken makes something be wrong with a volume; without conditions it is well
// again.
func (m *Memory) Sicken(id volume.ID, conditions ...volume.Condition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sick[id] = conditions
}

// Health implements backend.Provisioner and backend.Attacher.
func (m *Memory) Health(ctx context.Context, id volume.ID) ([]volume.Condition, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("health of %s: %w", id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.poolByID(id.Pool()); p != nil && !p.Available {
		if _, err := volume.ParseID(volume.KindVolume, string(id)); err != nil {
			return nil, err
		}
		return p.conditionsLocked(), nil
	}
	if _, err := m.volumeLocked(id); err != nil {
		return nil, err
	}
	return volume.Conditions(m.sick[id]), nil
}

// Unhealthy implements backend.Provisioner.
func (m *Memory) Unhealthy(ctx context.Context) ([]volume.Health, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list unhealthy volumes: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []volume.Health
	for _, p := range m.pools {
		for id := range p.volumes {
			conditions := volume.Conditions(m.sick[id])
			if !p.Available {
				conditions = p.conditionsLocked()
			}
			if len(conditions) > 0 {
				out = append(out, volume.Health{ID: id, Conditions: conditions})
			}
		}
	}
	slices.SortFunc(out, func(a, b volume.Health) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// StorageHealth implements backend.Attacher.
func (m *Memory) StorageHealth(ctx context.Context) ([]volume.PoolHealth, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("health of the pools: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []volume.PoolHealth
	for _, p := range m.pools {
		out = append(out, volume.PoolHealth{Pool: p.Pool, Conditions: p.conditionsLocked()})
	}
	return out, nil
}

// Headroom implements backend.Attacher: Memory promises every volume its size.
func (m *Memory) Headroom(volume.ID) (volume.Bytes, bool) { return 0, false }

func (p *memoryPool) conditionsLocked() []volume.Condition {
	if p.Available {
		return nil
	}
	return []volume.Condition{{Severity: volume.Inaccessible, Reason: PoolMissing, Message: p.Reason}}
}
