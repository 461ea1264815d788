package controller

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestValidateConfirmsAllOrNothing(t *testing.T) {
	b := newBench(t)
	id := b.mustCreate(t, request("v", withCaps(mountCap("ext4", rwo)), withParameters(map[string]string{"inodeRatio": "8192"}))).GetVolumeId()
	rwx := mountCap("", csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	for name, tc := range map[string]struct {
		req     *csi.ValidateVolumeCapabilitiesRequest
		message string // "" means confirmed
	}{
		"what it is":        {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("ext4", rwo, "noatime"), mountCap("", csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)}, Parameters: map[string]string{"inodeRatio": "8192", "sectorSize": "4096", "pool": "default"}}, ""},
		"kubernetes' keys":  {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)}, VolumeContext: map[string]string{"storage.kubernetes.io/csiProvisionerIdentity": "x", "csi.storage.k8s.io/pod.name": "p"}}, ""},
		"one mode too many": {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo), rwx}}, "one node"},
		"another fs":        {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("xfs", rwo)}}, "ext4"},
		"block":             {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{blockCap(rwo)}}, "filesystem volume"},
		"a mount flag":      {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo, "offset=1")}}, "offset"},
		"another pool":      {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)}, Parameters: map[string]string{"pool": "hdd"}}, "hdd"},
		"other inodes":      {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)}, Parameters: map[string]string{"inodeRatio": "4096"}}, "8192"},
		"other sectors":     {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)}, Parameters: map[string]string{"sectorSize": "512"}}, "sectors"},
		"unknown parameter": {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)}, Parameters: map[string]string{"iops": "1"}}, "iops"},
		"a context":         {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)}, VolumeContext: map[string]string{"path": "/etc"}}, "path"},
		"mutable":           {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{mountCap("", rwo)}, MutableParameters: map[string]string{"a": "b"}}, "mutable"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.req.VolumeId = id
			resp, err := b.ValidateVolumeCapabilities(t.Context(), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if tc.message != "" {
				if resp.GetConfirmed() != nil || !strings.Contains(resp.GetMessage(), tc.message) {
					t.Errorf("got %v, want no confirmation and a message about %q", resp, tc.message)
				}
				return
			}
			if resp.GetConfirmed() == nil {
				t.Fatalf("not confirmed: %s", resp.GetMessage())
			}
			if diff := cmp.Diff(tc.req.GetVolumeCapabilities(), resp.GetConfirmed().GetVolumeCapabilities(), protocmp.Transform()); diff != "" {
				t.Errorf("confirmed capabilities differ:\n%s", diff)
			}
		})
	}
}

func TestValidateRefusesWhatItCannotRead(t *testing.T) {
	b := newBench(t)
	id := b.mustCreate(t, request("v")).GetVolumeId()
	ok := []*csi.VolumeCapability{mountCap("", rwo)}
	for name, tc := range map[string]struct {
		id   string
		caps []*csi.VolumeCapability
		want error
	}{
		"no id":           {"", ok, volume.ErrInvalid},
		"no capabilities": {id, nil, volume.ErrInvalid},
		"no access type":  {id, []*csi.VolumeCapability{{}}, volume.ErrInvalid},
		"a malformed id":  {"x", ok, volume.ErrNotFound},
		"an unknown id":   {none(volume.KindVolume), ok, volume.ErrNotFound},
	} {
		_, err := b.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{VolumeId: tc.id, VolumeCapabilities: tc.caps})
		t.Log(name)
		wantErr(t, err, tc.want)
	}
}
