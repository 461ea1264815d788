package rpc

import (
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestEveryMethodIsKnownToReadOrToChange fails when a new version of CSI brings a
// method that nobody has decided about: a changing method outside the table would
// run without a lock.
func TestEveryMethodIsKnownToReadOrToChange(t *testing.T) {
	reads := []string{
		"GetPluginInfo", "GetPluginCapabilities", "Probe",
		"ValidateVolumeCapabilities", "ListVolumes", "ControllerListVolumeHealth", "ControllerGetVolumeHealth", "GetCapacity",
		"ControllerGetCapabilities", "ListSnapshots", "GetSnapshot", "ControllerGetVolume",
		"NodeGetVolumeStats", "NodeGetVolumeHealth", "NodeGetStorageHealth", "NodeGetCapabilities", "NodeGetInfo",
	}
	services := csi.File_csi_proto.Services()
	for i := range services.Len() {
		service := services.Get(i)
		if name := service.Name(); name == "GroupController" || name == "SnapshotMetadata" {
			continue // not served by any driver of this repository
		}
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			_, changes := keysOf(newMessage(t, m.Input().FullName()))
			if read := slices.Contains(reads, string(m.Name())); read == changes {
				t.Errorf("%s: in the list of reads: %v, changes something: %v", m.Name(), read, changes)
			}
		}
	}
}

func newMessage(t *testing.T, name protoreflect.FullName) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

func TestCallsLockWhatTheyTouch(t *testing.T) {
	vol := func(name string) key { return key{domain: domainVolume, name: volume.HashName(name)} }
	snap := func(name string) key { return key{domain: domainSnapshot, name: volume.HashName(name)} }
	path := func(p string) key { return key{domain: domainPath, name: p} }
	share := func(k key) key { k.shared = true; return k }
	restore := create("child")
	restore.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshotID("s")},
	}}
	clone := func(source, child string) *csi.CreateVolumeRequest {
		req := create(child)
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volumeID(source)},
		}}
		return req
	}
	for _, c := range []struct {
		name string
		req  any
		want []key
	}{
		{"create", create("v"), []key{vol("v")}},
		{"delete meets create", remove("v"), []key{vol("v")}},
		{"restore shares the snapshot", restore, []key{share(snap("s")), vol("child")}},
		{"clone is alone on its source", clone("v", "child"), []key{vol("v"), vol("child")}},
		{"clone of itself", clone("v", "v"), []key{vol("v")}},
		{"snapshot is alone on its source", &csi.CreateSnapshotRequest{SourceVolumeId: volumeID("v"), Name: "s"}, []key{vol("v"), snap("s")}},
		{"delete snapshot meets create", &csi.DeleteSnapshotRequest{SnapshotId: snapshotID("s")}, []key{snap("s")}},
		{"expand", &csi.ControllerExpandVolumeRequest{VolumeId: volumeID("v")}, []key{vol("v")}},
		{"modify", &csi.ControllerModifyVolumeRequest{VolumeId: volumeID("v")}, []key{vol("v")}},
		{"node expand", &csi.NodeExpandVolumeRequest{VolumeId: volumeID("v"), VolumePath: "/p"}, []key{vol("v")}},
		{"stage", &csi.NodeStageVolumeRequest{VolumeId: volumeID("v"), StagingTargetPath: "/s/"}, []key{vol("v"), path("/s")}},
		{"unstage", &csi.NodeUnstageVolumeRequest{VolumeId: volumeID("v"), StagingTargetPath: "/s"}, []key{vol("v"), path("/s")}},
		{"publish", &csi.NodePublishVolumeRequest{VolumeId: volumeID("v"), TargetPath: "/a/../t"}, []key{share(vol("v")), path("/t")}},
		{"unpublish", &csi.NodeUnpublishVolumeRequest{VolumeId: volumeID("v"), TargetPath: "/t"}, []key{share(vol("v")), path("/t")}},
		{"foreign id", &csi.DeleteVolumeRequest{VolumeId: "../x"}, []key{{domain: domainForeignVolume, name: volume.HashName("../x")}}},
		{"snapshot id where a volume's belongs", &csi.DeleteVolumeRequest{VolumeId: snapshotID("s")},
			[]key{{domain: domainForeignVolume, name: volume.HashName(snapshotID("s"))}}},
		{"nothing named", &csi.NodePublishVolumeRequest{}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, changes := keysOf(c.req)
			if !changes {
				t.Error("says that it changes nothing")
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(key{})); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSecretsAndTokensTakeNoPartInWhetherCallsAreIdentical(t *testing.T) {
	publish := func(adjust func(*csi.NodePublishVolumeRequest)) *csi.NodePublishVolumeRequest {
		r := &csi.NodePublishVolumeRequest{
			VolumeId: "v", TargetPath: "/t", Secrets: map[string]string{"a": "1"},
			VolumeContext: map[string]string{TokensKey: "first", "csi.storage.k8s.io/pod.name": "pod", "b": "2"},
		}
		adjust(r)
		return r
	}
	original := fingerprintOf("m", publish(func(*csi.NodePublishVolumeRequest) {}))
	for name, c := range map[string]struct {
		adjust func(*csi.NodePublishVolumeRequest)
		same   bool
	}{
		"the same":           {func(*csi.NodePublishVolumeRequest) {}, true},
		"other secrets":      {func(r *csi.NodePublishVolumeRequest) { r.Secrets = map[string]string{"c": "3"} }, true},
		"no secrets":         {func(r *csi.NodePublishVolumeRequest) { r.Secrets = nil }, true},
		"refreshed tokens":   {func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[TokensKey] = "second" }, true},
		"tokens in secrets":  {func(r *csi.NodePublishVolumeRequest) { delete(r.VolumeContext, TokensKey) }, true},
		"other context":      {func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["b"] = "3" }, false},
		"other pod":          {func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["csi.storage.k8s.io/pod.name"] = "q" }, true},
		"no pod":             {func(r *csi.NodePublishVolumeRequest) { delete(r.VolumeContext, "csi.storage.k8s.io/pod.name") }, true},
		"one more of theirs": {func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["csi.storage.k8s.io/ephemeral"] = "true" }, true},
		"other target":       {func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "/u" }, false},
		"read-only":          {func(r *csi.NodePublishVolumeRequest) { r.Readonly = true }, false},
		"an empty block cap": {func(r *csi.NodePublishVolumeRequest) { r.VolumeCapability = &csi.VolumeCapability{} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := publish(c.adjust)
			before := proto.Clone(r)
			if same := fingerprintOf("m", r) == original; same != c.same {
				t.Errorf("same: %v", same)
			}
			if !proto.Equal(before, r) {
				t.Error("the request was changed")
			}
		})
	}
	if fingerprintOf("m", publish(func(r *csi.NodePublishVolumeRequest) { delete(r.VolumeContext, "b") })) == original {
		t.Error("the context of the volume itself takes no part")
	}
	if fingerprintOf("other method", publish(func(*csi.NodePublishVolumeRequest) {})) == original {
		t.Error("another method has the same fingerprint")
	}
	if strings.Contains(string(original[:]), "first") {
		t.Error("the fingerprint holds a token")
	}
}
