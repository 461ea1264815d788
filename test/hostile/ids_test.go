package hostile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// foreignIDs are ids that this driver cannot have made.
func (s *scene) foreignIDs() []string {
	id := s.witnesses[0].id
	parts := strings.Split(id, ".")
	return []string{
		".", "..", "/", "../" + id, "./" + id, id + "/", id + "/../" + s.spares[0].id, "volumes/" + id, "/" + id, "..%2f" + id, id + "\x00", "\x00" + id, id + "\n", " " + id,
		"vol", "vol.", "vol..", "vol." + parts[1], "vol." + parts[1] + ".", "vol.." + parts[2], "vol." + parts[1] + "." + parts[2] + ".x", "vol." + parts[1] + "." + parts[2] + "0",
		"vol." + parts[1] + ".." + parts[2][2:], "vol." + parts[1] + "/" + parts[2], "vol." + parts[1] + ".zz" + parts[2][2:], strings.ToUpper(id), "Vol." + parts[1] + "." + parts[2],
		"vol.*." + parts[2], "vol." + parts[1] + "." + strings.Repeat("*", 32), "vol." + parts[1] + "." + strings.Repeat("?", 32), ".staging", ".trash", "holdfast.json", "pool.lock",
		"grp." + parts[1] + "." + parts[2], "-rf", "$(id)", "nosuch", "ü", strings.Repeat("x", 129), strings.Repeat("x", 5<<20), s.snapshot + "." + id,
	}
}

func TestForeignIDsNameNothing(t *testing.T) {
	s := newScene(t)
	s.start()
	ids := s.foreignIDs()
	for i, id := range append(ids, s.snapshot) {
		t.Run(fmt.Sprintf("volume %d %.40q", i, id), func(t *testing.T) { s.runAll(t, s.onVolume(id, unknown, fine)) })
	}
	for i, id := range append(ids, s.witnesses[0].id) {
		t.Run(fmt.Sprintf("snapshot %d %.40q", i, id), func(t *testing.T) { s.runAll(t, s.onSnapshot(id, unknown, fine)) })
	}
	// An object of our form that does not exist, and one in a pool that is away.
	parts := strings.Split(s.witnesses[0].id, ".")
	away := []codes.Code{codes.Unavailable}
	t.Run("no such volume", func(t *testing.T) {
		s.runAll(t, s.onVolume("vol."+parts[1]+"."+strings.Repeat("0", 32), unknown, fine))
		s.runAll(t, s.onSnapshot("snap."+parts[1]+"."+strings.Repeat("0", 32), unknown, fine))
	})
	t.Run("no such pool", func(t *testing.T) {
		s.runAll(t, s.onVolume("vol."+strings.Repeat("0", 16)+"."+parts[2], away, away))
		s.runAll(t, s.onSnapshot("snap."+strings.Repeat("0", 16)+"."+parts[2], away, away))
	})
	t.Run("no id", func(t *testing.T) {
		s.runAll(t, s.onVolume("", refused, refused))
		s.runAll(t, s.onSnapshot("", refused, refused))
	})
	s.end()
}

// onVolume are all calls that name a volume. gone is what a call answers to
// which it is already as it should be.
func (s *scene) onVolume(id string, missing, gone []codes.Code) []attack {
	c := orchestrator.Claim{FSType: volume.Ext4}.Capability()
	size := &csi.CapacityRange{RequiredBytes: int64(volume.GiB)}
	clone := orchestrator.Claim{Name: "attack", Size: volume.GiB}.Request()
	clone.VolumeContentSource = volumeSource(id)
	return []attack{
		{name: "clone", want: missing, req: clone},
		{name: "delete", want: gone, req: &csi.DeleteVolumeRequest{VolumeId: id}},
		{name: "get", want: missing, req: &csi.ControllerGetVolumeRequest{VolumeId: id}},
		{name: "health", want: missing, req: &csi.ControllerGetVolumeHealthRequest{VolumeId: id}},
		{name: "health on the node", want: missing, req: &csi.NodeGetVolumeHealthRequest{VolumeId: id}},
		{name: "validate", want: missing, req: &csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{c}}},
		{name: "expand", want: missing, req: &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: size}},
		{name: "snapshot", want: missing, req: &csi.CreateSnapshotRequest{Name: "attack", SourceVolumeId: id}},
		{name: "stage", want: missing, req: &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: s.staging(), VolumeCapability: c}},
		{name: "publish", want: missing, req: &csi.NodePublishVolumeRequest{VolumeId: id, StagingTargetPath: s.driver.StagingPath(s.witnesses[0].id), TargetPath: s.target(), VolumeCapability: c}},
		{name: "stats", want: append(unknown, missing...), req: &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: s.witnesses[0].target}},
		{name: "expand on the node", want: missing, req: &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: s.witnesses[0].target}},
		// Nothing is at these paths, whatever the id.
		{name: "unpublish", want: append(fine, gone...), req: &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: s.target()}},
		{name: "unstage", want: append(fine, gone...), req: &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: s.staging()}},
	}
}

// onSnapshot are all calls that name a snapshot.
func (s *scene) onSnapshot(id string, missing, gone []codes.Code) []attack {
	restore := orchestrator.Claim{Name: "attack", Size: volume.GiB}.Request()
	restore.VolumeContentSource = snapshotSource(id)
	list := gone
	if id == "" {
		list = fine // no filter
	}
	if strings.Contains(id, "\x00") || strings.Contains(id, notText) {
		list = append(list, codes.InvalidArgument)
	}
	return []attack{
		{name: "restore", want: missing, req: restore},
		{name: "delete", want: gone, req: &csi.DeleteSnapshotRequest{SnapshotId: id}},
		{name: "get", want: missing, req: &csi.GetSnapshotRequest{SnapshotId: id}},
		{name: "list", want: list, req: &csi.ListSnapshotsRequest{SnapshotId: id}},
		{name: "list of a volume", want: fine, req: &csi.ListSnapshotsRequest{SourceVolumeId: id}},
	}
}

func TestListTokensOfOthersAreAborted(t *testing.T) {
	s := newScene(t)
	s.start()
	first := s.mustCall(&csi.ListVolumesRequest{MaxEntries: 1}).(*csi.ListVolumesResponse).GetNextToken()
	aborted := []codes.Code{codes.Aborted}
	var attacks []attack
	for i, token := range []string{
		"0", "-1", "1", "MTo", s.witnesses[0].id, first + "=", first + "\n", " " + first, first[:len(first)-1], "A" + first[1:], strings.ToLower(first), "\x00", "../../etc/passwd", strings.Repeat("A", 5<<20),
	} {
		attacks = append(attacks,
			attack{name: fmt.Sprintf("volumes %d %.20q", i, token), want: aborted, req: &csi.ListVolumesRequest{StartingToken: token}},
			attack{name: fmt.Sprintf("health %d %.20q", i, token), want: aborted, req: &csi.ControllerListVolumeHealthRequest{StartingToken: token}},
			attack{name: fmt.Sprintf("snapshots %d %.20q", i, token), want: aborted, req: &csi.ListSnapshotsRequest{StartingToken: token}},
		)
	}
	attacks = append(attacks,
		attack{name: "a token of volumes for snapshots", want: aborted, req: &csi.ListSnapshotsRequest{StartingToken: first}},
		attack{name: "not text", want: refused, req: &csi.ListVolumesRequest{StartingToken: notText}},
		attack{name: "fewer than none", want: refused, req: &csi.ListVolumesRequest{MaxEntries: -1}},
	)
	s.run(t, attacks)
	s.end()
}
