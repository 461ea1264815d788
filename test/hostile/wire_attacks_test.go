package hostile

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// garbage are bytes that are no message of CSI, or hardly one.
func garbage(t *testing.T, whole proto.Message) map[string][]byte {
	t.Helper()
	raw, err := proto.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	nested := []byte{}
	for range 20_000 {
		nested = protowire.AppendTag(nested, 100, protowire.StartGroupType)
	}
	return map[string][]byte{
		"cut off":             raw[:len(raw)-1],
		"zeros":               make([]byte, 1024),
		"ones":                bytes.Repeat([]byte{0xff}, 1024),
		"text":                []byte("GET / HTTP/1.1\r\n\r\n"),
		"length without end":  {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"longer than it is":   {0x0a, 0x7f, 'x'},
		"groups in groups":    nested,
		"wrong type of field": protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7),
		"field number 0":      {0x02, 0x00},
	}
}

func TestWhatIsNoMessageIsRefused(t *testing.T) {
	s := newScene(t)
	s.start()
	for _, m := range s.wire.methods {
		for name, raw := range garbage(t, s.create(s.spares[0].claim).req) {
			_, err := s.wire.send(fullName(m), raw)
			s.hear(err)
			// A field of another type is an unknown field, and those are ignored.
			if !slices.Contains(legal, status.Code(err)) {
				t.Errorf("%s of %s answered %v", m.Name(), name, err)
			}
		}
	}
	_, err := s.wire.send("/csi.v1.Controller/CreateVolume", protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), string(make([]byte, 9<<20))))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("9 MiB answered %v", err)
	}
	for _, method := range []string{"/csi.v1.Controller/Nothing", "/csi.v1.Nothing/CreateVolume", "/csi.v0.Controller/CreateVolume", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} {
		if _, err := s.wire.send(method, nil); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s answered %v", method, err)
		}
	}
	demandUnchanged(t, s.box, s.before, "messages that are none")
	s.end()
}

func TestImpossibleNumbersAreRefused(t *testing.T) {
	s := newScene(t)
	s.start()
	w := s.witnesses[0]
	var attacks []attack
	const most, least = 1<<63 - 1, -1 << 63
	for _, r := range [][2]int64{{-1, 0}, {least, 0}, {0, -1}, {most, 0}, {most, most}, {most - 4095, most}, {2, 1}, {1 << 62, 1}, {least, most}, {1 << 50, 0}} {
		size := &csi.CapacityRange{RequiredBytes: r[0], LimitBytes: r[1]}
		create := s.create(w.claim).req.(*csi.CreateVolumeRequest)
		create.CapacityRange = size
		want := []codes.Code{codes.InvalidArgument, codes.OutOfRange}
		attacks = append(attacks,
			attack{name: fmt.Sprintf("create %v", r), req: create, want: want},
			attack{name: fmt.Sprintf("expand %v", r), req: &csi.ControllerExpandVolumeRequest{VolumeId: w.id, CapacityRange: size}, want: want},
			attack{name: fmt.Sprintf("expand on the node %v", r), req: &csi.NodeExpandVolumeRequest{VolumeId: w.id, VolumePath: w.target, CapacityRange: size}, want: want},
		)
	}
	for _, mode := range []csi.VolumeCapability_AccessMode_Mode{-1, 0, 99, most >> 32, csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER} {
		create, stage, publish := s.create(w.claim).req.(*csi.CreateVolumeRequest), s.stage(s.spares[0]).req.(*csi.NodeStageVolumeRequest), s.publish(w).req.(*csi.NodePublishVolumeRequest)
		create.VolumeCapabilities[0].AccessMode.Mode = mode
		stage.VolumeCapability.AccessMode.Mode = mode
		publish.VolumeCapability.AccessMode.Mode = mode
		either := []codes.Code{codes.InvalidArgument, codes.FailedPrecondition}
		attacks = append(attacks,
			attack{name: fmt.Sprintf("create as %d", mode), req: create, want: refused},
			attack{name: fmt.Sprintf("stage as %d", mode), req: stage, want: either},
			attack{name: fmt.Sprintf("publish as %d", mode), req: publish, want: either},
		)
	}
	s.run(t, attacks)
	s.end()
}
