package hostile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// legal are the codes that the CSI specification has for any call; those that
// mean a defect of the driver are not among them.
var legal = []codes.Code{
	codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition,
	codes.Aborted, codes.OutOfRange, codes.Unimplemented, codes.ResourceExhausted, codes.Unavailable,
}

// harmless are requests in which every string is there to be replaced, none of
// which changes anything: their volume does not exist.
func (s *scene) harmless() []proto.Message {
	id := "vol" + s.snapshot[len("snap"):] // well-formed, of our pool, of no volume
	snapshot := "snap" + s.witnesses[0].id[len("vol"):]
	words := func() map[string]string { return map[string]string{"key": "value"} }
	filesystem := &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4", MountFlags: []string{"noatime"}, VolumeMountGroup: "1000"}},
	}
	topology := &csi.TopologyRequirement{
		Requisite: []*csi.Topology{{Segments: words()}},
		Preferred: []*csi.Topology{{Segments: words()}},
	}
	size := &csi.CapacityRange{RequiredBytes: 1 << 26}
	path := s.box.Kubelet() + "/pods/none/volumes/kubernetes.io~csi/none/mount"
	staging := s.box.Kubelet() + "/plugins/kubernetes.io/csi/csi.holdfast.dev/none/globalmount"
	return []proto.Message{
		&csi.CreateVolumeRequest{
			Name: "name", CapacityRange: size, VolumeCapabilities: []*csi.VolumeCapability{filesystem}, Parameters: words(), Secrets: words(),
			VolumeContentSource: snapshotSource(snapshot), AccessibilityRequirements: topology, MutableParameters: words(),
		},
		&csi.CreateVolumeRequest{Name: "name", CapacityRange: size, VolumeCapabilities: []*csi.VolumeCapability{filesystem}, VolumeContentSource: volumeSource(id)},
		&csi.DeleteVolumeRequest{VolumeId: id, Secrets: words()},
		&csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: "node-1", VolumeCapability: filesystem, Secrets: words(), VolumeContext: words()},
		&csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: "node-1", Secrets: words()},
		&csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeContext: words(), VolumeCapabilities: []*csi.VolumeCapability{filesystem}, Parameters: words(), Secrets: words(), MutableParameters: words(),
		},
		&csi.ListVolumesRequest{StartingToken: "token", MaxEntries: 1},
		&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{filesystem}, Parameters: words(), AccessibleTopology: &csi.Topology{Segments: words()}},
		&csi.CreateSnapshotRequest{SourceVolumeId: id, Name: "name", Secrets: words(), Parameters: words(), AccessibilityRequirements: topology},
		&csi.DeleteSnapshotRequest{SnapshotId: snapshot, Secrets: words()},
		&csi.ListSnapshotsRequest{StartingToken: "token", SourceVolumeId: id, SnapshotId: snapshot, Secrets: words()},
		&csi.GetSnapshotRequest{SnapshotId: snapshot, Secrets: words()},
		&csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: size, Secrets: words(), VolumeCapability: filesystem},
		&csi.ControllerGetVolumeRequest{VolumeId: id},
		&csi.ControllerModifyVolumeRequest{VolumeId: id, Secrets: words(), MutableParameters: words()},
		&csi.NodeStageVolumeRequest{
			VolumeId: id, PublishContext: words(), StagingTargetPath: staging, VolumeCapability: filesystem, Secrets: words(), VolumeContext: words(),
		},
		&csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging},
		&csi.NodePublishVolumeRequest{
			VolumeId: id, PublishContext: words(), StagingTargetPath: staging, TargetPath: path, VolumeCapability: filesystem, Secrets: words(), VolumeContext: words(),
		},
		&csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: path},
		&csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: path, StagingTargetPath: staging},
		&csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: path, CapacityRange: size, StagingTargetPath: staging, VolumeCapability: filesystem, Secrets: words()},
		&csi.CreateVolumeGroupSnapshotRequest{Name: "name", SourceVolumeIds: []string{id}, Secrets: words(), Parameters: words()},
		&csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: "group", SnapshotIds: []string{snapshot}, Secrets: words()},
		&csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: "group", SnapshotIds: []string{snapshot}, Secrets: words()},
		&csi.ControllerGetVolumeHealthRequest{VolumeId: id, Secrets: words()},
		&csi.ControllerListVolumeHealthRequest{StartingToken: "token", Secrets: words()},
		&csi.NodeGetStorageHealthRequest{Secrets: words()},
		&csi.NodeGetVolumeHealthRequest{VolumeId: id, StagingTargetPath: staging, VolumePublishPath: path},
	}
}

func snapshotSource(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func volumeSource(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// place is a string in a message that can be replaced.
type place struct {
	name string
	set  func(root protoreflect.Message, value string)
}

// places are all strings of a message: fields, entries of lists, keys and values
// of maps.
func places(m protoreflect.Message) []place {
	return placesIn(m, "", func(root protoreflect.Message) protoreflect.Message { return root })
}

// placesIn finds the places in a message that get reaches from the root.
func placesIn(m protoreflect.Message, prefix string, get func(protoreflect.Message) protoreflect.Message) []place {
	var found []place
	add := func(name string, set func(m protoreflect.Message, value string)) {
		found = append(found, place{prefix + name, func(root protoreflect.Message, value string) { set(get(root), value) }})
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		switch {
		case f.IsMap():
			add(name+" (key)", func(m protoreflect.Message, value string) {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(value).MapKey(), protoreflect.ValueOfString("value"))
			})
			add(name+" (value)", func(m protoreflect.Message, value string) {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString("key").MapKey(), protoreflect.ValueOfString(value))
			})
		case f.IsList() && f.Kind() == protoreflect.StringKind:
			add(name, func(m protoreflect.Message, value string) {
				m.Mutable(f).List().Set(0, protoreflect.ValueOfString(value))
			})
		case f.Kind() == protoreflect.StringKind:
			add(name, func(m protoreflect.Message, value string) { m.Set(f, protoreflect.ValueOfString(value)) })
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			found = append(found, placesIn(v.List().Get(0).Message(), prefix+name+".", func(root protoreflect.Message) protoreflect.Message {
				return get(root).Mutable(f).List().Get(0).Message()
			})...)
		case f.Kind() == protoreflect.MessageKind:
			found = append(found, placesIn(v.Message(), prefix+name+".", func(root protoreflect.Message) protoreflect.Message {
				return get(root).Mutable(f).Message()
			})...)
		}
		return true
	})
	slices.SortFunc(found, func(a, b place) int { return strings.Compare(a.name, b.name) })
	return found
}

func TestEveryStringOfEveryRPC(t *testing.T) {
	s := newScene(t)
	s.start()
	var bases []attack
	for _, req := range s.harmless() {
		bases = append(bases, attack{name: "of no volume", req: req})
	}
	bases = append(bases, s.plausible()...)
	answers := map[codes.Code]int{}
	for _, base := range bases {
		for _, p := range places(base.req.ProtoReflect()) {
			s.replace(t, base, p, answers)
			demandUnchanged(t, s.box, s.before, fmt.Sprintf("attacks on %s of %T %s", p.name, base.req, base.name))
		}
	}
	t.Logf("answers: %v", answers)
	s.end()
}

// replace puts every evil string in one place of a request.
func (s *scene) replace(t *testing.T, base attack, p place, answers map[codes.Code]int) {
	t.Helper()
	evil := s.evil()
	for _, name := range slices.Sorted(maps.Keys(evil)) {
		req := proto.Clone(base.req)
		p.set(req.ProtoReflect(), evil[name])
		resp, code := s.call(req)
		answers[code]++
		if !slices.Contains(legal, code) {
			t.Fatalf("%T %s with %q as %s answered %s: %s", req, base.name, name, p.name, code, s.last)
		}
		if len(s.last) > longestError {
			t.Errorf("%T %s with %q as %s: an error of %d bytes", req, base.name, name, p.name, len(s.last))
		}
		if code == codes.OK && base.undo != nil {
			base.undo(resp)
		}
	}
}

// longestError is more than any error says in bytes: it ends up in an event.
const longestError = 3 << 10
