package node

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/condition"
)

// NodeGetVolumeHealth answers what is wrong with a volume on this machine now,
// staged or not. The paths are not looked at: what is wrong with a volume is wrong
// wherever it is published.
func (s *Server) NodeGetVolumeHealth(ctx context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	id, err := parseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	conditions, err := s.backend.Health(ctx, id)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: condition.OfVolume(id, conditions)}, nil
}

// NodeGetStorageHealth answers what is wrong with the pools of this machine.
func (s *Server) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	pools, err := s.backend.StorageHealth(ctx)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetStorageHealthResponse{BackendHealth: condition.OfStorage(pools)}, nil
}
