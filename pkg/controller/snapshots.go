package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// CreateSnapshot takes a snapshot of a volume. It is ready to use when the call
// returns.
func (s *Server) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if !s.backend.Capabilities().Snapshots {
		return s.UnimplementedControllerServer.CreateSnapshot(ctx, req)
	}
	if req.GetName() == "" {
		return nil, fmt.Errorf("%w: name is missing", volume.ErrInvalid)
	}
	source, err := parseID(volume.KindVolume, "source volume id", req.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	consistency, err := parseSnapshotParameters(req.GetParameters())
	if err != nil {
		return nil, err
	}
	allowed, err := s.allowed(req.GetAccessibilityRequirements())
	if err != nil {
		return nil, err
	}
	if allowed != nil && !slices.Contains(allowed, source.Pool()) {
		return nil, fmt.Errorf("snapshot %q would be in pool %s with its volume, which is not in the topology asked for: %w", req.GetName(), source.Pool(), volume.ErrNoSpace)
	}
	snap, err := s.backend.CreateSnapshot(ctx, volume.SnapshotSpec{
		Name:        req.GetName(),
		Source:      source,
		Consistency: consistency,
	})
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: toSnapshot(snap)}, nil
}

// DeleteSnapshot removes a snapshot. An id that this driver cannot have made
// names nothing, so its deletion succeeds.
func (s *Server) DeleteSnapshot(ctx context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if !s.backend.Capabilities().Snapshots {
		return s.UnimplementedControllerServer.DeleteSnapshot(ctx, req)
	}
	id, err := parseID(volume.KindSnapshot, "snapshot id", req.GetSnapshotId())
	if errors.Is(err, volume.ErrNotFound) {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.backend.DeleteSnapshot(ctx, id); err != nil {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// GetSnapshot answers what a snapshot is now.
func (s *Server) GetSnapshot(ctx context.Context, req *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	if !s.backend.Capabilities().Snapshots {
		return s.UnimplementedControllerServer.GetSnapshot(ctx, req)
	}
	id, err := parseID(volume.KindSnapshot, "snapshot id", req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	snap, err := s.backend.Snapshot(ctx, id)
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{Snapshot: toSnapshot(snap)}, nil
}

// ListSnapshots lists the snapshots of all available pools, in order of id. A
// filter that names nothing finds nothing; that is not an error.
func (s *Server) ListSnapshots(ctx context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	if !s.backend.Capabilities().Snapshots {
		return s.UnimplementedControllerServer.ListSnapshots(ctx, req)
	}
	found, err := s.findSnapshots(ctx, req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	if source := req.GetSourceVolumeId(); source != "" {
		found = slices.DeleteFunc(slices.Clone(found), func(s volume.Snapshot) bool { return string(s.Source) != source })
	}
	part, next, err := page(found, func(s volume.Snapshot) volume.ID { return s.ID },
		volume.KindSnapshot, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	resp := &csi.ListSnapshotsResponse{NextToken: next}
	for _, snap := range part {
		resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: toSnapshot(snap)})
	}
	return resp, nil
}

// findSnapshots are all snapshots, or the one with this id if there is one. It
// is ErrUnavailable if the id's pool is away: an empty answer would be taken for
// the loss of the snapshot.
func (s *Server) findSnapshots(ctx context.Context, id string) ([]volume.Snapshot, error) {
	if id == "" {
		return s.backend.Snapshots(ctx)
	}
	parsed, err := volume.ParseID(volume.KindSnapshot, id)
	if err != nil {
		return nil, nil // an id that is none of ours names nothing
	}
	snap, err := s.backend.Snapshot(ctx, parsed)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []volume.Snapshot{snap}, nil
}
