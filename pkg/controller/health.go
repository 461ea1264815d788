package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/condition"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ControllerGetVolumeHealth answers what is wrong with a volume now.
func (s *Server) ControllerGetVolumeHealth(ctx context.Context, req *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	id, err := parseID(volume.KindVolume, "volume id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	conditions, err := s.backend.Health(ctx, id)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: condition.OfVolume(id, conditions)}, nil
}

// ControllerListVolumeHealth lists the volumes with something wrong, in order of
// id.
func (s *Server) ControllerListVolumeHealth(ctx context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	all, err := s.backend.Unhealthy(ctx)
	if err != nil {
		return nil, err
	}
	part, next, err := page(all, func(h volume.Health) volume.ID { return h.ID },
		volume.KindVolume, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	resp := &csi.ControllerListVolumeHealthResponse{NextToken: next}
	for _, h := range part {
		resp.Entries = append(resp.Entries, condition.OfVolume(h.ID, h.Conditions))
	}
	return resp, nil
}
