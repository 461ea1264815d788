package rpc

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func mounted(fsType string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{
		Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags},
	}}
}

func TestRequestsBeyondTheLimitsAreInvalid(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	context4K := map[string]string{TokensKey: long(20_000)}
	for _, c := range []struct {
		name string
		req  proto.Message
		want string // part of the error, "" for none
	}{
		{"empty request", &csi.CreateVolumeRequest{}, ""},
		{"longest name", create(long(128)), ""},
		{"name too long", create(long(129)), "field name has 129 bytes, the limit is 128"},
		{"bytes count, not characters", create(strings.Repeat("ä", 65)), "130 bytes"},
		{"name of many languages", create("größe 容量 🗄"), ""},
		{"tab and newline are allowed by the specification", create("a\tb\nc\rd"), ""},
		{"NUL in name", create("a\x00b"), "control character U+0000 at byte 1"},
		{"vertical tab in name", create("\x0b"), "U+000B"},
		{"escape in name", create("\x1b[31m"), "U+001B"},
		{"DEL in name", create("\x7f"), "U+007F"},
		{"C1 control in name", create("a\u0085"), "U+0085"},
		{"not UTF-8", create("\xff\xfe"), "UTF-8"},
		{"snapshot name too long", &csi.CreateSnapshotRequest{Name: long(129)}, "field name"},
		{"parameters of 4 KiB", &csi.CreateVolumeRequest{Parameters: map[string]string{"k": long(4095)}}, ""},
		{"parameters beyond", &csi.CreateVolumeRequest{Parameters: map[string]string{"k": long(4096)}}, "field parameters has 4097 bytes"},
		{"many small parameters", &csi.CreateVolumeRequest{Parameters: map[string]string{long(2000): long(2000), "b": long(200)}}, "parameters"},
		{"segments of topology beyond", &csi.CreateVolumeRequest{AccessibilityRequirements: &csi.TopologyRequirement{
			Requisite: []*csi.Topology{{Segments: map[string]string{"k": long(5000)}}},
		}}, "field segments"},
		{"many topologies", &csi.CreateVolumeRequest{AccessibilityRequirements: &csi.TopologyRequirement{
			Requisite: []*csi.Topology{{Segments: map[string]string{"k": long(4000)}}, {Segments: map[string]string{"k": long(4000)}}},
		}}, ""},
		{"secrets have no limit", &csi.CreateVolumeRequest{Secrets: map[string]string{"k": long(100_000)}}, ""},
		{"two tokens in volume_context", &csi.NodePublishVolumeRequest{VolumeContext: context4K}, ""},
		{"long id is an id that does not exist", &csi.DeleteVolumeRequest{VolumeId: long(5 << 20)}, ""},
		{"control character in an id", &csi.DeleteVolumeRequest{VolumeId: "a\x00"}, ""},
		{"long pagination token", &csi.ListVolumesRequest{StartingToken: long(200)}, ""},
		{"kubelet's paths", &csi.NodePublishVolumeRequest{StagingTargetPath: long(4095), TargetPath: long(4095)}, ""},
		{"path too long", &csi.NodePublishVolumeRequest{TargetPath: long(4096)}, "field target_path has 4096 bytes"},
		{"NUL in path", &csi.NodeGetVolumeStatsRequest{VolumePath: "/a\x00"}, "field volume_path has the control character U+0000"},
		{"other characters in path", &csi.NodeGetVolumeStatsRequest{VolumePath: "/a\x01"}, ""},
		{"fs type too long", &csi.NodeStageVolumeRequest{VolumeCapability: mounted(long(129))}, "field fs_type"},
		{"mount flags of 4 KiB", &csi.NodeStageVolumeRequest{VolumeCapability: mounted("ext4", long(2048), long(2048))}, ""},
		{"mount flags beyond", &csi.NodeStageVolumeRequest{VolumeCapability: mounted("ext4", long(2048), long(2049))}, "field mount_flags has 4097 bytes"},
		{"one of several capabilities", &csi.CreateVolumeRequest{VolumeCapabilities: []*csi.VolumeCapability{mounted("ext4"), nil, mounted("\x00")}}, "field fs_type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := validate(c.req)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrInvalid with %q", err, c.want)
			}
			if len(err.Error()) > 200 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func FuzzValidate(f *testing.F) {
	f.Add("pvc-1", "ext4", "/var/lib/kubelet", "key", "value", "noatime")
	f.Add("\x00", "\xff", "/\x00", "", strings.Repeat("a", 5000), "\u0085")
	f.Fuzz(func(t *testing.T, name, fsType, path, k, v, flag string) {
		create := &csi.CreateVolumeRequest{
			Name: name, Parameters: map[string]string{k: v}, VolumeCapabilities: []*csi.VolumeCapability{mounted(fsType, flag)},
		}
		publish := &csi.NodePublishVolumeRequest{VolumeId: v, TargetPath: path, VolumeContext: map[string]string{k: v}}
		legal := func(s string, limit int) bool {
			return utf8.ValidString(s) && len(s) <= limit && !strings.ContainsFunc(s, isBanned)
		}
		want := legal(name, 128) && legal(fsType, 128) && legal(flag, 4096) &&
			len(k)+len(v) <= 4096 && utf8.ValidString(k) && utf8.ValidString(v)
		if err := validate(create); (err == nil) != want {
			t.Errorf("create: %v", err)
		} else if err != nil && !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("create: not ErrInvalid: %v", err)
		}
		want = utf8.ValidString(v) && utf8.ValidString(k) && utf8.ValidString(path) && len(path) <= 4095 && !strings.Contains(path, "\x00")
		if err := validate(publish); (err == nil) != want {
			t.Errorf("publish: %v", err)
		}
		// What follows the check must take anything that passed it, and more.
		keysOf(create)
		keysOf(publish)
		fingerprintOf("m", create)
		render(publish)
		secretsOf(create).scrub(v)
	})
}
