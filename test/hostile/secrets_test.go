package hostile

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/rpc"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// tokens is what kubelet passes under rpc.TokensKey. serial makes it another one.
func tokens(serial int) string {
	text, err := json.Marshal(map[string]map[string]string{
		// A JSON Web Token, and one that has another form.
		"vault":   {"token": fmt.Sprintf("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIlZCJ9.%s%060d", canaryWord, serial), "expirationTimestamp": "2030-01-01T00:00:00Z"},
		"opaque ": {"token": fmt.Sprintf("%s-opaque-%d", canaryWord, serial), "expirationTimestamp": "2030-01-01T00:00:00Z"},
	})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// secret are secrets of every shape that may turn up in a map of secrets.
func secret(serial int) map[string]string {
	return map[string]string{
		"password":    fmt.Sprintf("%s-password-%d", canaryWord, serial),
		"quoted":      canaryWord + ` "quoted" \ password`,
		"lines":       "-----BEGIN KEY-----\n" + canaryWord + "-first\n" + canaryWord + "-second\n-----END KEY-----\n",
		"long":        canaryWord + strings.Repeat("0123456789", 1000),
		"large":       canaryWord + strings.Repeat("A", 100_000),
		rpc.TokensKey: tokens(serial),
	}
}

// secretFlags are mount flags with secrets in them, in every place of a list.
func secretFlags() []string {
	return []string{
		"password=" + canaryWord + "-flag",
		"data=ordered,password=" + canaryWord + "-list",
		"data=" + canaryWord + "-value",
		"noatime=" + canaryWord + "-no-value-wanted",
		"password=" + canaryWord + "-tab\t" + canaryWord,
		"password=" + canaryWord + strings.Repeat("-long", 100),
		"password=" + canaryWord + "=" + canaryWord,
		"password=first " + canaryWord,
		"password=\"" + canaryWord + "\"",
		"password = " + canaryWord,
		"password=ü" + canaryWord,
	}
}

func TestSecretsAndTokensStayInside(t *testing.T) {
	s := newScene(t)
	s.start()
	serial := 0
	// Each request carries every kind of secret in every place that it has.
	loaded := func(req proto.Message) proto.Message {
		serial++
		loadSecrets(req, serial)
		return req
	}
	ext4, block := s.witnesses[0], s.witnesses[2]
	create := s.create(orchestrator.Claim{Size: 64 * volume.MiB})
	publish := s.publish(ext4)
	bad := s.publish(ext4)
	bad.req.(*csi.NodePublishVolumeRequest).TargetPath = s.traps() + "/link-to-dir"
	unstaged := s.publish(ext4)
	unstaged.req.(*csi.NodePublishVolumeRequest).StagingTargetPath = s.staging()
	attacks := []attack{
		{name: "create", req: loaded(create.req), want: fine, undo: create.undo},
		{name: "create badly", req: loaded(orchestrator.Claim{Name: "attack", Parameters: map[string]string{"x": "y"}}.Request()), want: refused},
		{name: "publish", req: loaded(publish.req), want: fine, undo: func(resp proto.Message) {
			// A republish with other tokens does nothing.
			s.mustCall(loaded(s.publish(ext4).req))
			publish.undo(resp)
		}},
		{name: "publish at a link", req: loaded(bad.req), want: refused},
		{name: "publish what is not staged", req: loaded(unstaged.req), want: []codes.Code{codes.FailedPrecondition}},
		{name: "stage as it is", req: loaded(&csi.NodeStageVolumeRequest{VolumeId: ext4.id, StagingTargetPath: s.driver.StagingPath(ext4.id), VolumeCapability: ext4.claim.Capability()}), want: fine},
		{name: "stage no volume", req: loaded(&csi.NodeStageVolumeRequest{VolumeId: "none", StagingTargetPath: s.staging(), VolumeCapability: ext4.claim.Capability()}), want: unknown},
		{name: "snapshot no volume", req: loaded(&csi.CreateSnapshotRequest{Name: "attack", SourceVolumeId: "none"}), want: unknown},
		{name: "delete what is in use", req: loaded(&csi.DeleteVolumeRequest{VolumeId: block.id}), want: []codes.Code{codes.FailedPrecondition}},
		{name: "validate", req: loaded(&csi.ValidateVolumeCapabilitiesRequest{VolumeId: ext4.id, VolumeCapabilities: []*csi.VolumeCapability{ext4.claim.Capability()}}), want: fine},
		{name: "tokens in parameters", req: orchestrator.Claim{Name: "attack", Block: true, Size: 1, Parameters: map[string]string{rpc.TokensKey: tokens(0), "x": "y"}}.Request(), want: refused},
		{name: "tokens that are no JSON", req: &csi.NodePublishVolumeRequest{VolumeId: "none", TargetPath: s.target(), VolumeContext: map[string]string{rpc.TokensKey: "{" + canaryWord + "-broken"}}, want: refused},
		{name: "not text among them", req: loaded(&csi.DeleteVolumeRequest{VolumeId: notText}), want: refused},
	}
	for i, flag := range secretFlags() {
		spare, witness := *s.spares[0], *ext4
		spare.claim.MountFlags, witness.claim.MountFlags = []string{flag}, []string{flag}
		name := fmt.Sprintf(" with flag %d", i)
		claim := orchestrator.Claim{Name: "attack", Size: volume.GiB, MountFlags: []string{flag}}
		attacks = append(attacks,
			attack{name: "create" + name, req: claim.Request(), want: refused},
			attack{name: "stage" + name, req: s.stage(&spare).req, want: refused},
			attack{name: "publish" + name, req: s.publish(&witness).req, want: refused},
		)
		s.listen(&csi.ValidateVolumeCapabilitiesRequest{VolumeId: ext4.id, VolumeCapabilities: []*csi.VolumeCapability{witness.claim.Capability()}})
	}
	s.run(t, attacks)
	s.end()
}

// listen adds the message of a validation that was refused to what was said.
func (s *scene) listen(req *csi.ValidateVolumeCapabilitiesRequest) {
	s.t.Helper()
	resp := s.mustCall(req).(*csi.ValidateVolumeCapabilitiesResponse)
	if resp.GetConfirmed() != nil || resp.GetMessage() == "" {
		s.t.Errorf("confirmed: %v", resp)
	}
	s.said.WriteString(resp.GetMessage() + "\n")
}

// loadSecrets puts secrets into the maps of a request that may hold some.
func loadSecrets(req proto.Message, serial int) {
	m := req.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		var load map[string]string
		switch f.Name() {
		case "secrets":
			load = secret(serial)
		case "volume_context":
			load = map[string]string{rpc.TokensKey: tokens(serial)}
		case "publish_context":
			load = map[string]string{"jwt": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIlZCJ9." + canaryWord + strings.Repeat("x", 20)}
		}
		for key, value := range load {
			m.Mutable(f).Map().Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(value))
		}
	}
}
