package rpc

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
)

// What a message is about, read through the accessors that the generated types
// share, so that an RPC that a later version of CSI adds is understood as well.
// Each answers "" for what a message does not have.

func nameOf(msg any) string {
	if m, ok := msg.(interface{ GetName() string }); ok {
		return m.GetName()
	}
	return ""
}

func idOfVolume(msg any) string {
	switch m := msg.(type) {
	case interface{ GetVolumeId() string }:
		return m.GetVolumeId()
	case interface{ GetSourceVolumeId() string }:
		return m.GetSourceVolumeId()
	case interface{ GetVolume() *csi.Volume }:
		return m.GetVolume().GetVolumeId()
	}
	return ""
}

func idOfSnapshot(msg any) string {
	switch m := msg.(type) {
	case interface{ GetSnapshotId() string }:
		return m.GetSnapshotId()
	case interface{ GetSnapshot() *csi.Snapshot }:
		return m.GetSnapshot().GetSnapshotId()
	case interface {
		GetVolumeContentSource() *csi.VolumeContentSource
	}:
		return m.GetVolumeContentSource().GetSnapshot().GetSnapshotId()
	}
	return ""
}

func pathOf(msg any) string {
	if m, ok := msg.(interface{ GetTargetPath() string }); ok {
		return m.GetTargetPath()
	}
	if m, ok := msg.(interface{ GetVolumePath() string }); ok {
		return m.GetVolumePath()
	}
	if m, ok := msg.(interface{ GetVolumePublishPath() string }); ok {
		return m.GetVolumePublishPath()
	}
	if m, ok := msg.(interface{ GetStagingTargetPath() string }); ok {
		return m.GetStagingTargetPath()
	}
	return ""
}
