package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/capability"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ControllerExpandVolume makes a volume larger, attached or not. The node then
// shows the new size to the device and the filesystem, so node expansion is
// always required, for a raw block volume too.
func (s *Server) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if !s.backend.Capabilities().Expansion {
		return s.UnimplementedControllerServer.ControllerExpandVolume(ctx, req)
	}
	if req.GetVolumeId() == "" {
		return nil, fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	size := volume.Bytes(req.GetCapacityRange().GetRequiredBytes())
	limit := volume.Bytes(req.GetCapacityRange().GetLimitBytes())
	if size < 0 || limit < 0 || size == 0 && limit == 0 {
		return nil, fmt.Errorf("%w: capacity range with required %d and limit %d bytes: at least one must be set and none negative", volume.ErrInvalid, size, limit)
	}
	if limit > 0 && limit < size {
		return nil, fmt.Errorf("%w: required size %d is above the limit %d", volume.ErrInvalid, size, limit)
	}
	id, err := volume.ParseID(volume.KindVolume, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	before, err := s.backend.Volume(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := checkUse(before, req.GetVolumeCapability()); err != nil {
		return nil, err
	}
	after, err := s.backend.ExpandVolume(ctx, id, size, limit)
	if err != nil {
		return nil, err
	}
	if after.Size > before.Size {
		s.warnOfGrowth(ctx, after)
	}
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes:         int64(after.Size),
		NodeExpansionRequired: true,
	}, nil
}

// warnOfGrowth warns if the volume, by growth or as a larger copy, has a
// filesystem that suffers from how much it has grown since it was made.
func (s *Server) warnOfGrowth(ctx context.Context, v volume.Volume) {
	if v.Format.FSType == volume.XFS && filesystem.XfsGrownTooFar(v.BirthSize, v.Size) {
		s.warn(ctx, "xfs has grown far beyond the size it was made with; it keeps its small allocation groups and gets slow: copy the data to a new volume of this size",
			"volume", v.ID, "birth", v.BirthSize, "size", v.Size)
	}
}

// checkUse is ErrInvalid if the volume cannot be used like this. nil is no
// claim.
func checkUse(v volume.Volume, m *csi.VolumeCapability) error {
	if m == nil {
		return nil
	}
	c, err := capability.Parse(m)
	if err != nil {
		return err
	}
	if err := c.Fits(v.Format); err != nil {
		return fmt.Errorf("%w: %w", volume.ErrInvalid, err)
	}
	return nil
}
