package local

import (
	"context"
	"fmt"
	"os"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Snapshot implements backend.Provisioner.
func (b *Backend) Snapshot(_ context.Context, id volume.ID) (volume.Snapshot, error) {
	p, err := b.poolOf(volume.KindSnapshot, id)
	if err != nil {
		return volume.Snapshot{}, err
	}
	o, err := p.find(id)
	return o.snapshot(), err
}

// Snapshots implements backend.Provisioner.
func (b *Backend) Snapshots(context.Context) ([]volume.Snapshot, error) {
	return collect(b, volume.KindSnapshot, record.snapshot), nil
}

// CreateSnapshot implements backend.Provisioner.
func (b *Backend) CreateSnapshot(ctx context.Context, spec volume.SnapshotSpec) (volume.Snapshot, error) {
	if spec.Consistency == "" {
		spec.Consistency = volume.ConsistencyFilesystem
	}
	end, err := b.begin(ctx, volume.KindSnapshot, volume.HashName(spec.Name))
	if err != nil {
		return volume.Snapshot{}, err
	}
	defer end()
	// A name is unique among the snapshots of all pools, whatever their source.
	for _, p := range b.available() {
		o, ok, err := p.existing(volume.NewID(volume.KindSnapshot, p.id, spec.Name))
		if err != nil {
			return volume.Snapshot{}, err
		}
		if ok {
			return o.snapshot(), o.snapshot().Matches(spec)
		}
	}
	s, err := b.takeSnapshot(ctx, spec)
	if err != nil {
		b.suspect(err)
		return volume.Snapshot{}, fmt.Errorf("snapshot %s as %q: %w", spec.Source, spec.Name, noSpace(err))
	}
	return s, nil
}

func (b *Backend) takeSnapshot(ctx context.Context, spec volume.SnapshotSpec) (volume.Snapshot, error) {
	p, err := b.poolOf(volume.KindVolume, spec.Source)
	if err != nil {
		return volume.Snapshot{}, err
	}
	src, err := p.find(spec.Source)
	if err != nil {
		return volume.Snapshot{}, err
	}
	id := volume.NewID(volume.KindSnapshot, p.id, spec.Name)
	r := record{
		ID: id, Name: spec.Name, Size: src.Size, Format: src.Format, SnapshotOf: src.ID,
		Consistency: spec.Consistency, BirthSize: src.BirthSize,
	}
	o, err := p.build(ctx, "create-snapshot", r, src.ID, func(dir *os.File) error {
		return p.copyData(ctx, src, dir, true, spec.Consistency)
	})
	return o.snapshot(), err
}

// DeleteSnapshot implements backend.Provisioner.
func (b *Backend) DeleteSnapshot(ctx context.Context, id volume.ID) error {
	return b.delete(ctx, "delete-snapshot", volume.KindSnapshot, id)
}
