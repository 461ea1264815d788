package hostile

import (
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The requests that the attacks spoil, each legal as it is, with what takes it
// back.

func (s *scene) create(claim orchestrator.Claim) attack {
	req := claim.Request()
	req.Name = "attack"
	return attack{name: "of a new volume", req: req, undo: func(resp proto.Message) {
		s.mustCall(&csi.DeleteVolumeRequest{VolumeId: resp.(*csi.CreateVolumeResponse).GetVolume().GetVolumeId()})
	}}
}

func (s *scene) snap(w *witness) attack {
	return attack{name: "of a witness", req: &csi.CreateSnapshotRequest{Name: "attack", SourceVolumeId: w.id}, undo: func(resp proto.Message) {
		s.mustCall(&csi.DeleteSnapshotRequest{SnapshotId: resp.(*csi.CreateSnapshotResponse).GetSnapshot().GetSnapshotId()})
	}}
}

func (s *scene) stage(w *witness) attack {
	req := &csi.NodeStageVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging(), VolumeCapability: w.claim.Capability()}
	return attack{name: "of a spare", req: req, undo: func(proto.Message) {
		s.mustCall(&csi.NodeUnstageVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging()})
		if err := os.Remove(s.staging()); err != nil && !os.IsNotExist(err) {
			s.t.Error(err) // kubelet's part of unstaging
		}
	}}
}

func (s *scene) publish(w *witness) attack {
	req := &csi.NodePublishVolumeRequest{
		VolumeId: w.id, StagingTargetPath: s.driver.StagingPath(w.id), TargetPath: s.target(), VolumeCapability: w.claim.Capability(),
	}
	return attack{name: "of a witness", req: req, undo: func(proto.Message) {
		s.mustCall(&csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: s.target()})
	}}
}

// plausible are requests about volumes that exist, of which one string at a time
// is spoiled: those that get as far into the driver as a request can. Secrets are
// spoiled in the harmless requests, which fail and so must keep them.
func (s *scene) plausible() []attack {
	words := func() map[string]string { return map[string]string{"csi.storage.k8s.io/pvc/name": "data"} }
	create := s.create(orchestrator.Claim{Size: 64 * volume.MiB, FSType: volume.Ext4, MountFlags: []string{"noatime"}})
	fresh := create.req.(*csi.CreateVolumeRequest)
	fresh.Parameters = words()
	copied := s.create(orchestrator.Claim{Size: 64 * volume.MiB, Block: true, Volume: s.spares[2].id})
	capacity := &csi.GetCapacityRequest{VolumeCapabilities: fresh.GetVolumeCapabilities(), Parameters: words()}
	bases := []attack{create, copied, {name: "of a capability", req: capacity}}
	for _, w := range []*witness{s.spares[0], s.spares[2]} {
		stage := s.stage(w)
		r := stage.req.(*csi.NodeStageVolumeRequest)
		r.PublishContext, r.VolumeContext = words(), words()
		bases = append(bases, stage, attack{name: "of a spare", req: &csi.NodeUnstageVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging()}})
	}
	for _, w := range []*witness{s.witnesses[1], s.witnesses[2]} {
		snapshot := s.snap(w)
		r := snapshot.req.(*csi.CreateSnapshotRequest)
		r.Parameters = words()
		publish := s.publish(w)
		p := publish.req.(*csi.NodePublishVolumeRequest)
		p.PublishContext, p.VolumeContext = words(), words()
		size := &csi.CapacityRange{RequiredBytes: int64(w.claim.Size)}
		of := func(req proto.Message) attack { return attack{name: "of a witness", req: req} }
		bases = append(bases, snapshot, publish,
			of(&csi.NodeUnstageVolumeRequest{VolumeId: w.id, StagingTargetPath: s.staging()}),
			of(&csi.NodeUnpublishVolumeRequest{VolumeId: w.id, TargetPath: s.target()}),
			of(&csi.NodeGetVolumeStatsRequest{VolumeId: w.id, VolumePath: w.target, StagingTargetPath: s.driver.StagingPath(w.id)}),
			of(&csi.NodeExpandVolumeRequest{VolumeId: w.id, VolumePath: w.target, CapacityRange: size, VolumeCapability: w.claim.Capability()}),
			of(&csi.ControllerExpandVolumeRequest{VolumeId: w.id, CapacityRange: size, VolumeCapability: w.claim.Capability()}),
			of(&csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: w.id, VolumeContext: words(), VolumeCapabilities: []*csi.VolumeCapability{w.claim.Capability()}, Parameters: words(),
			}),
			of(&csi.ListSnapshotsRequest{SourceVolumeId: w.id, SnapshotId: s.snapshot}),
		)
	}
	return bases
}
