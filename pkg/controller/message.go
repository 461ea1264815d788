package controller

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/holdfast-csi/holdfast/pkg/topology"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// toVolume answers with the exact size and with the topology of the pool alone:
// a disk that moves to another node takes its volumes with it. There is no
// volume context: the id says everything.
func toVolume(v volume.Volume) *csi.Volume {
	return &csi.Volume{
		VolumeId:           string(v.ID),
		CapacityBytes:      int64(v.Size),
		ContentSource:      toContentSource(v.Source),
		AccessibleTopology: []*csi.Topology{{Segments: topology.OfPool(v.ID.Pool())}},
	}
}

func toContentSource(s volume.Source) *csi.VolumeContentSource {
	switch {
	case s.Snapshot != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: string(s.Snapshot)},
		}}
	case s.Volume != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: string(s.Volume)},
		}}
	default:
		return nil
	}
}

// toSnapshot leaves accessible_topology out: only a plugin with the capability
// SNAPSHOT_ACCESSIBILITY_CONSTRAINTS may answer it (CSI spec, Snapshot).
func toSnapshot(s volume.Snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId:     string(s.ID),
		SourceVolumeId: string(s.Source),
		SizeBytes:      int64(s.Size),
		CreationTime:   timestamppb.New(s.Created),
		ReadyToUse:     true,
	}
}
