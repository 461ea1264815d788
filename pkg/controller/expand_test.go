package controller

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func expandRequest(id string, required, limit volume.Bytes) *csi.ControllerExpandVolumeRequest {
	return &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: int64(required), LimitBytes: int64(limit)}}
}

func TestExpandAnswersTheExactSizeEachTime(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]*csi.VolumeCapability{"fs": mountCap("", rwo), "block": blockCap(rwo)} {
		id := b.mustCreate(t, request(name, withCaps(c))).GetVolumeId()
		for range 2 {
			req := expandRequest(id, 128<<20, 0)
			req.VolumeCapability = c
			resp, err := b.ControllerExpandVolume(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.GetCapacityBytes() != 128<<20 || !resp.GetNodeExpansionRequired() {
				t.Errorf("%s: got %v", name, resp)
			}
		}
		resp, err := b.ControllerExpandVolume(t.Context(), expandRequest(id, 64<<20, 0))
		if err != nil || resp.GetCapacityBytes() != 128<<20 {
			t.Errorf("%s: a smaller size got %v, %v; want what it has", name, resp, err)
		}
	}
}

func TestExpandRefuses(t *testing.T) {
	b := newBench(t)
	id := b.mustCreate(t, request("v")).GetVolumeId()
	asBlock := expandRequest(id, 128<<20, 0)
	asBlock.VolumeCapability = blockCap(rwo)
	for name, tc := range map[string]struct {
		req  *csi.ControllerExpandVolumeRequest
		want error
	}{
		"no id":               {expandRequest("", 128<<20, 0), volume.ErrInvalid},
		"no range":            {&csi.ControllerExpandVolumeRequest{VolumeId: id}, volume.ErrInvalid},
		"an empty range":      {expandRequest(id, 0, 0), volume.ErrInvalid},
		"a negative size":     {expandRequest(id, -5, 0), volume.ErrInvalid},
		"a limit below":       {expandRequest(id, 128<<20, 127<<20), volume.ErrInvalid},
		"a limit it is above": {expandRequest(id, 0, 32<<20), volume.ErrOutOfRange},
		"more than there is":  {expandRequest(id, volume.TiB, 0), volume.ErrOutOfRange},
		"more than possible":  {expandRequest(id, 65*volume.TiB, 0), volume.ErrOutOfRange},
		"another use":         {asBlock, volume.ErrInvalid},
		"a malformed id":      {expandRequest("x", 128<<20, 0), volume.ErrNotFound},
		"an unknown id":       {expandRequest(none(volume.KindVolume), 128<<20, 0), volume.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.ControllerExpandVolume(t.Context(), tc.req)
			wantErr(t, err, tc.want)
		})
	}
}

func TestExpandWarnsOfAnXfsFarBeyondItsBirth(t *testing.T) {
	b := newBench(t)
	id := b.mustCreate(t, request("v", withCaps(mountCap("xfs", rwo)), withSize(300<<20, 0))).GetVolumeId()
	for _, step := range []struct {
		size     volume.Bytes
		warnings int
	}{
		{2 * volume.GiB, 0},
		{4 * volume.GiB, 1},
		{4 * volume.GiB, 1}, // the same call again changes nothing
	} {
		if _, err := b.ControllerExpandVolume(t.Context(), expandRequest(id, step.size, 0)); err != nil {
			t.Fatal(err)
		}
		if len(b.warnings) != step.warnings {
			t.Errorf("after %s: %d warnings, want %d", step.size, len(b.warnings), step.warnings)
		}
	}
}

func TestCreateWarnsOfACopyOfAnXfsFarBeyondItsBirth(t *testing.T) {
	b := newBench(t)
	caps := withCaps(mountCap("xfs", rwo))
	source := b.mustCreate(t, request("source", caps, withSize(300<<20, 0))).GetVolumeId()
	snapshot := b.mustSnapshot(t, "snapshot", source).GetSnapshotId()
	b.mustCreate(t, request("new", caps, withSize(4*volume.GiB, 0)))
	b.mustCreate(t, request("copy", caps, withSize(2*volume.GiB, 0), fromSnapshot(snapshot)))
	if len(b.warnings) != 0 {
		t.Errorf("warned of %q without a reason", b.warnings)
	}
	for i, from := range []func(*csi.CreateVolumeRequest){fromSnapshot(snapshot), fromVolume(source)} {
		b.mustCreate(t, request(string(rune('a'+i)), caps, withSize(4*volume.GiB, 0), from))
		if len(b.warnings) != i+1 {
			t.Errorf("%d warnings, want %d", len(b.warnings), i+1)
		}
	}
}
