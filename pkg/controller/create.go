package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/capability"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// CreateVolume makes a volume from nothing, a snapshot or a volume (CSI spec,
// CreateVolume).
func (s *Server) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	spec, err := s.spec(req)
	if err != nil {
		return nil, err
	}
	v, err := s.backend.CreateVolume(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := s.checkPlace(v, spec); err != nil {
		return nil, err
	}
	if !spec.Source.IsZero() {
		s.warnOfGrowth(ctx, v)
	}
	return &csi.CreateVolumeResponse{Volume: toVolume(v)}, nil
}

// spec is what the request asks of the engine.
func (s *Server) spec(req *csi.CreateVolumeRequest) (volume.Spec, error) {
	spec := volume.Spec{
		Name:  req.GetName(),
		Size:  volume.Bytes(req.GetCapacityRange().GetRequiredBytes()),
		Limit: volume.Bytes(req.GetCapacityRange().GetLimitBytes()),
	}
	if spec.Name == "" {
		return spec, fmt.Errorf("%w: name is missing", volume.ErrInvalid)
	}
	if len(req.GetMutableParameters()) > 0 {
		return spec, fmt.Errorf("%w: mutable parameters (a VolumeAttributesClass) are not supported: this driver has none", volume.ErrInvalid)
	}
	mode, fsType, err := parseCapabilities(req.GetVolumeCapabilities())
	if err != nil {
		return spec, err
	}
	class, err := parseVolumeParameters(req.GetParameters())
	if err != nil {
		return spec, err
	}
	spec.Pool = class.pool
	spec.Format = volume.Format{Mode: mode, FSType: fsType, SectorSize: class.sectorSize, InodeRatio: class.inodeRatio}
	if spec.Source, err = s.source(req.GetVolumeContentSource()); err != nil {
		return spec, err
	}
	if spec.Source.IsZero() {
		// With a source the engine resolves it against the source's format.
		if _, err := spec.Format.Resolve(nil); err != nil {
			return spec, err
		}
	}
	spec.Allowed, err = s.allowed(req.GetAccessibilityRequirements())
	return spec, err
}

// parseCapabilities is what all capabilities together ask of a new volume. A
// volume must be usable with any of them. It is ErrInvalid if that cannot be.
func parseCapabilities(list []*csi.VolumeCapability) (volume.Mode, volume.FSType, error) {
	if len(list) == 0 {
		return "", "", fmt.Errorf("%w: volume capabilities are missing", volume.ErrInvalid)
	}
	caps := make([]capability.Capability, len(list))
	for i, m := range list {
		c, err := capability.Parse(m)
		if err != nil {
			return "", "", err
		}
		if err := c.Supported(); err != nil {
			return "", "", fmt.Errorf("%w: %w", volume.ErrInvalid, err)
		}
		if err := c.CheckMountFlags(); err != nil {
			return "", "", err
		}
		caps[i] = c
	}
	mode, fsType, err := capability.Same(caps)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", volume.ErrInvalid, err)
	}
	return mode, fsType, nil
}

// source is what the volume is to be made from. It is ErrNotFound for an id
// that cannot exist and ErrInvalid for a kind of source that the engine lacks.
func (s *Server) source(m *csi.VolumeContentSource) (volume.Source, error) {
	if m == nil {
		return volume.Source{}, nil
	}
	can := s.backend.Capabilities()
	switch t := m.GetType().(type) {
	case *csi.VolumeContentSource_Snapshot:
		if !can.Snapshots {
			return volume.Source{}, fmt.Errorf("%w: volumes from snapshots are not supported by this engine", volume.ErrInvalid)
		}
		id, err := parseID(volume.KindSnapshot, "source snapshot id", t.Snapshot.GetSnapshotId())
		return volume.Source{Snapshot: id}, err
	case *csi.VolumeContentSource_Volume:
		if !can.Clones {
			return volume.Source{}, fmt.Errorf("%w: volumes from volumes are not supported by this engine", volume.ErrInvalid)
		}
		id, err := parseID(volume.KindVolume, "source volume id", t.Volume.GetVolumeId())
		return volume.Source{Volume: id}, err
	default:
		return volume.Source{}, fmt.Errorf("%w: volume content source is empty: name a snapshot or a volume", volume.ErrInvalid)
	}
}

// parseID reads a required id: ErrInvalid if it is missing, ErrNotFound if it
// is none of ours.
func parseID(kind volume.Kind, field, id string) (volume.ID, error) {
	if id == "" {
		return "", fmt.Errorf("%w: %s is missing", volume.ErrInvalid, field)
	}
	return volume.ParseID(kind, id)
}
