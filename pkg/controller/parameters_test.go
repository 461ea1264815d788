package controller

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestEveryDocumentedParameterIsAccepted(t *testing.T) {
	for _, p := range VolumeParameters() {
		for value := range strings.SplitSeq(p.Values, ", ") {
			if p.Name == "pool" {
				value = "nvme"
			}
			if _, err := parseVolumeParameters(map[string]string{p.Name: value}); err != nil {
				t.Errorf("%s=%s is documented and refused: %v", p.Name, value, err)
			}
		}
	}
	for _, p := range SnapshotParameters() {
		for value := range strings.SplitSeq(p.Values, ", ") {
			got, err := parseSnapshotParameters(map[string]string{p.Name: value})
			if err != nil || string(got) != value {
				t.Errorf("%s=%s is documented, got %q, %v", p.Name, value, got, err)
			}
		}
	}
}

func TestParametersAreReadStrictly(t *testing.T) {
	for _, p := range []map[string]string{
		{"pool": ""},
		{"inodeRatio": "0"},
		{"inodeRatio": " 4096"},
		{"inodeRatio": "04096"},
		{"inodeRatio": "4096\n"},
		{"inodeRatio": "5000"},
		{"sectorSize": "0x200"},
		{"sectorSize": ""},
		{"fsType": "ext4"},
		{"": "x"},
		{"csi.storage.k8s.io": "x"},
		{"consistency": "crash"},
	} {
		if _, err := parseVolumeParameters(p); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: got %v, want ErrInvalid", p, err)
		}
	}
	for _, p := range []map[string]string{{"consistency": ""}, {"consistency": "Crash"}, {"pool": "x"}} {
		if _, err := parseSnapshotParameters(p); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("snapshot %q: got %v, want ErrInvalid", p, err)
		}
	}
}

func FuzzParameters(f *testing.F) {
	f.Add("pool", "default")
	f.Add("inodeRatio", "4096")
	f.Add("sectorSize", "512; rm -rf /")
	f.Add("csi.storage.k8s.io/pvc/name", "x")
	f.Fuzz(func(t *testing.T, key, value string) {
		c, err := parseVolumeParameters(map[string]string{key: value})
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) {
				t.Fatalf("%q=%q: %v is not ErrInvalid", key, value, err)
			}
			return
		}
		if c != (class{}) && key != "pool" && key != "inodeRatio" && key != "sectorSize" {
			t.Fatalf("%q=%q had an effect: %+v", key, value, c)
		}
	})
}
