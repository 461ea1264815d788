package controller

import (
	"context"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/capability"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ValidateVolumeCapabilities confirms everything that was asked, or nothing and
// says in the message what does not hold. A message that cannot be read at all
// (a capability without access type) is ErrInvalid.
func (s *Server) ValidateVolumeCapabilities(ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	if len(req.GetVolumeCapabilities()) == 0 {
		return nil, fmt.Errorf("%w: volume capabilities are missing", volume.ErrInvalid)
	}
	var caps []capability.Capability
	for _, m := range req.GetVolumeCapabilities() {
		c, err := capability.Parse(m)
		if err != nil {
			return nil, err
		}
		caps = append(caps, c)
	}
	id, err := volume.ParseID(volume.KindVolume, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := s.backend.Volume(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.holds(v, caps, req); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
			VolumeContext:      req.GetVolumeContext(),
			VolumeCapabilities: req.GetVolumeCapabilities(),
			Parameters:         req.GetParameters(),
		},
	}, nil
}

// holds is nil if the volume is all that the request says, else the first
// difference.
func (s *Server) holds(v volume.Volume, caps []capability.Capability, req *csi.ValidateVolumeCapabilitiesRequest) error {
	for _, c := range caps {
		if err := c.Fits(v.Format); err != nil {
			return err
		}
		if c.Mode == volume.ModeFilesystem {
			if _, err := c.MountOptions(v.Format.FSType); err != nil {
				return err
			}
		}
	}
	if len(req.GetMutableParameters()) > 0 {
		return fmt.Errorf("this driver has no mutable parameters")
	}
	for key := range req.GetVolumeContext() {
		if !strings.HasPrefix(key, ignoredPrefix) && !strings.HasPrefix(key, provisionerPrefix) {
			return fmt.Errorf("volume context has the key %q, which this driver did not set", key)
		}
	}
	class, err := parseVolumeParameters(req.GetParameters())
	if err != nil {
		return err
	}
	if name := s.poolName(v.ID.Pool()); class.pool != "" && class.pool != name {
		return fmt.Errorf("the volume is in the pool %q, not in %q", name, class.pool)
	}
	want := volume.Format{Mode: v.Format.Mode, SectorSize: class.sectorSize, InodeRatio: class.inodeRatio}
	got := v.Format
	if want.SectorSize != 0 && want.SectorSize != got.SectorSize {
		return fmt.Errorf("the volume has %d-byte sectors, not %d", got.SectorSize, want.SectorSize)
	}
	if want.InodeRatio != 0 && want.InodeRatio != got.InodeRatio {
		return fmt.Errorf("the volume has the inode ratio %d (0 is the default of mkfs), not %d", got.InodeRatio, want.InodeRatio)
	}
	return nil
}

// provisionerPrefix starts the keys that external-provisioner adds to the
// attributes of a PersistentVolume.
const provisionerPrefix = "storage.kubernetes.io/"
