package controller

import (
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-csi/holdfast/pkg/capability"
	"github.com/holdfast-csi/holdfast/pkg/topology"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// GetCapacity answers the room in the pools that the parameters and the topology
// choose. A topology that is not here, a pool that is away and capabilities that no
// volume has are no room.
//
// Parameters that CreateVolume would refuse choose every pool. The scheduler takes
// an error here, and no room, for a full disk, so a pod whose class has a mistake
// would wait for space for ever, and nobody would see CreateVolume name the mistake.
//
// Capabilities are read leniently: external-provisioner asks with an arbitrary
// one (mount, access mode UNKNOWN) whatever the class is for
// (external-provisioner, pkg/capacity/capacity.go).
func (s *Server) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	pool := s.poolAskedFor(req.GetParameters())
	least, ok := leastSize(req.GetVolumeCapabilities())
	if !ok {
		return capacity(0, 0, least), nil
	}
	var allowed []volume.PoolID
	if t := req.GetAccessibleTopology(); t != nil {
		allowed = topology.PoolsIn(t.GetSegments(), s.nodeID, s.knownPools())
		if len(allowed) == 0 {
			return capacity(0, 0, least), nil
		}
	}
	room, err := s.backend.Capacity(ctx, pool, allowed)
	if err != nil {
		return nil, err
	}
	return capacity(room.Available, room.MaxVolume, least), nil
}

// poolAskedFor is the pool that a class names, "" if CreateVolume would refuse the
// class: because of its parameters, or because there is no such pool. With several
// nodes the latter would have to be a pool of no node.
func (s *Server) poolAskedFor(parameters map[string]string) string {
	class, err := parseVolumeParameters(parameters)
	if err != nil || !slices.ContainsFunc(s.backend.Pools(), func(p volume.Pool) bool { return p.Name == class.pool }) {
		return ""
	}
	return class.pool
}

func capacity(available, largest, least volume.Bytes) *csi.GetCapacityResponse {
	return &csi.GetCapacityResponse{
		AvailableCapacity: int64(max(available, 0)),
		MaximumVolumeSize: wrapperspb.Int64(int64(max(largest, 0))),
		MinimumVolumeSize: wrapperspb.Int64(int64(least)),
	}
}

// leastSize is the smallest volume with all these capabilities, and whether
// there can be one.
func leastSize(list []*csi.VolumeCapability) (least volume.Bytes, ok bool) {
	// Without capabilities it is the smallest that any volume can be.
	least = volume.Format{Mode: volume.ModeBlock}.MinSize()
	for _, m := range list {
		c := capability.Capability{
			Mode:   volume.ModeFilesystem,
			FSType: volume.FSType(m.GetMount().GetFsType()),
			Access: m.GetAccessMode().GetMode(),
		}
		if m.GetBlock() != nil {
			c.Mode = volume.ModeBlock
		}
		least = max(least, volume.Format{Mode: c.Mode, FSType: c.FSType}.MinSize())
		if c.Access == csi.VolumeCapability_AccessMode_UNKNOWN {
			c.Access = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
		}
		if c.Supported() != nil {
			return least, false
		}
	}
	return least, true
}
