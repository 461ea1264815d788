package controller

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// DeleteVolume removes a volume. An id that this driver cannot have made names
// nothing, so its deletion succeeds.
func (s *Server) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, err := parseID(volume.KindVolume, "volume id", req.GetVolumeId())
	if errors.Is(err, volume.ErrNotFound) {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.backend.DeleteVolume(ctx, id); err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ControllerGetVolume answers what a volume is now.
func (s *Server) ControllerGetVolume(ctx context.Context, req *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	id, err := parseID(volume.KindVolume, "volume id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := s.backend.Volume(ctx, id)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: toVolume(v),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{},
	}, nil
}

// ListVolumes lists the volumes of all available pools, in order of id.
func (s *Server) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	all, err := s.backend.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	part, next, err := page(all, func(v volume.Volume) volume.ID { return v.ID },
		volume.KindVolume, req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	resp := &csi.ListVolumesResponse{NextToken: next}
	for _, v := range part {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{Volume: toVolume(v)})
	}
	return resp, nil
}
