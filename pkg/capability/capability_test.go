package capability

import (
	"errors"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func message(fsType string, mode csi.VolumeCapability_AccessMode_Mode, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func mustParse(t *testing.T, m *csi.VolumeCapability) Capability {
	t.Helper()
	c, err := Parse(m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryAccessModeIsKnown(t *testing.T) {
	type meaning struct{ supported, readOnly, single bool }
	want := map[string]meaning{
		"SINGLE_NODE_WRITER":        {supported: true},
		"SINGLE_NODE_READER_ONLY":   {supported: true, readOnly: true},
		"MULTI_NODE_READER_ONLY":    {supported: true, readOnly: true},
		"MULTI_NODE_SINGLE_WRITER":  {},
		"MULTI_NODE_MULTI_WRITER":   {},
		"SINGLE_NODE_SINGLE_WRITER": {supported: true, single: true},
		"SINGLE_NODE_MULTI_WRITER":  {supported: true},
	}
	// A mode that a later specification adds shows up here.
	for value, name := range csi.VolumeCapability_AccessMode_Mode_name {
		if name == "UNKNOWN" {
			continue
		}
		c := mustParse(t, message("", csi.VolumeCapability_AccessMode_Mode(value)))
		got := meaning{supported: c.Supported() == nil, readOnly: c.ReadOnly(), single: c.SingleWriter()}
		if got != want[name] {
			t.Errorf("%s: got %+v, want %+v", name, got, want[name])
		}
	}
}

func TestWhatCannotBeReadIsInvalid(t *testing.T) {
	group := message("", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	group.GetMount().VolumeMountGroup = "0"
	for name, m := range map[string]*csi.VolumeCapability{
		"nothing":        nil,
		"no access type": {AccessMode: &csi.VolumeCapability_AccessMode{Mode: 1}},
		"no access mode": {AccessType: &csi.VolumeCapability_Block{}},
		"unknown mode":   message("", csi.VolumeCapability_AccessMode_UNKNOWN),
		"a mount group":  group,
	} {
		if _, err := Parse(m); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

func TestFitsComparesModeAndFilesystem(t *testing.T) {
	c := mustParse(t, message("xfs", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	open := mustParse(t, message("", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	xfs := volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS}
	ext4 := volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4}
	block := volume.Format{Mode: volume.ModeBlock}
	if c.Fits(xfs) != nil || open.Fits(xfs) != nil || open.Fits(ext4) != nil {
		t.Error("a volume was refused that fits")
	}
	if c.Fits(ext4) == nil || c.Fits(block) == nil || open.Fits(block) == nil {
		t.Error("a volume was accepted that does not fit")
	}
}

func TestSameFindsTheFilesystemThatOneNames(t *testing.T) {
	open := mustParse(t, message("", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	xfs := mustParse(t, message("xfs", csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY))
	mode, fsType, err := Same([]Capability{open, xfs, open})
	if err != nil || mode != volume.ModeFilesystem || fsType != volume.XFS {
		t.Errorf("got %s %s, %v", mode, fsType, err)
	}
	if _, _, err := Same(nil); err == nil {
		t.Error("no capabilities agree on nothing")
	}
}

func TestMountFlagsOfAnOpenFilesystemFitOneOfThem(t *testing.T) {
	for flags, ok := range map[string]bool{
		"noatime":       true, // both
		"data=ordered":  true, // ext4
		"logbufs=4":     true, // xfs
		"discard":       false,
		"loop=/dev/sda": false,
	} {
		c := mustParse(t, message("", csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, flags))
		if err := c.CheckMountFlags(); (err == nil) != ok {
			t.Errorf("%s: %v, want accepted=%t", flags, err, ok)
		} else if err != nil && !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s: %v is not ErrInvalid", flags, err)
		}
	}
	if !slices.Equal(mustParse(t, message("", 1, "a", "b")).MountFlags, []string{"a", "b"}) {
		t.Error("flags are lost")
	}
}
