package backendtest

import (
	"context"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func missesNoPool() *broken {
	return &broken{health: func(ctx context.Context, m *Memory, id volume.ID) ([]volume.Condition, error) {
		list, err := m.Health(ctx, id)
		if err == nil && len(list) > 0 && list[0].Reason == PoolMissing {
			return nil, nil
		}
		return list, err
	}}
}

func refusesHealth() *broken {
	return &broken{health: func(ctx context.Context, m *Memory, id volume.ID) ([]volume.Condition, error) {
		if _, err := m.Volume(ctx, id); err != nil {
			return nil, err
		}
		return m.Health(ctx, id)
	}}
}

func everybodyIsWell() *broken {
	return &broken{health: func(context.Context, *Memory, volume.ID) ([]volume.Condition, error) { return nil, nil }}
}

func listsTheHealthy() *broken {
	return &broken{unhealthy: func(ctx context.Context, m *Memory) ([]volume.Health, error) {
		all, err := m.Volumes(ctx)
		var out []volume.Health
		for _, v := range all {
			out = append(out, volume.Health{ID: v.ID})
		}
		return out, err
	}}
}

func sickInNoOrder() *broken {
	return &broken{unhealthy: func(context.Context, *Memory) ([]volume.Health, error) {
		sick := []volume.Condition{{Severity: volume.Lost, Reason: "ImageMissing", Message: "gone"}}
		return []volume.Health{{ID: "vol.b", Conditions: sick}, {ID: "vol.a", Conditions: sick}}, nil
	}}
}

func forgetsAPool() *broken {
	return &broken{storage: func(ctx context.Context, m *Memory) ([]volume.PoolHealth, error) {
		all, err := m.StorageHealth(ctx)
		return all[:len(all)-1], err
	}}
}
