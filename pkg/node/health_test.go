package node

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestHealthOfAVolumeWhereverItIs(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.images.sick = map[volume.ID][]volume.Condition{v.ID: {{Severity: volume.Inaccessible, Reason: "FilesystemReadOnly", Message: "stop its pods"}}}
	want := &csi.VolumeHealth{VolumeId: string(v.ID), HealthStatuses: []*csi.VolumeHealth_VolumeHealthEntry{
		{Status: csi.VolumeHealthErrorType_INACCESSIBLE, Reason: "FilesystemReadOnly", Message: "stop its pods"},
	}}
	for _, path := range []string{"", b.target("p")} {
		resp, err := b.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: string(v.ID), VolumePublishPath: path})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, resp.GetVolumeHealth(), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	}
	for id, want := range map[string]error{"": volume.ErrInvalid, "x": volume.ErrNotFound} {
		if _, err := b.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: id}); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", id, err, want)
		}
	}
}

func TestStorageHealthNamesThePools(t *testing.T) {
	b := newBench(t)
	health := func() []*csi.NodeGetStorageHealthResponse_StorageBackendHealth {
		t.Helper()
		resp, err := b.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetBackendHealth()
	}
	if got := health(); len(got) > 0 {
		t.Errorf("nothing is wrong: %v", got)
	}
	b.images.ill = []volume.Condition{{Severity: volume.Inaccessible, Reason: "PoolMissing", Message: "its disk is away"}}
	got := health()
	if len(got) != 1 || got[0].GetStatus() != csi.StorageHealthErrorType_STORAGE_UNREACHABLE || got[0].GetReason() != "PoolMissing" {
		t.Errorf("got %v", got)
	}
}

func TestNoMoreIsAvailableThanIsLeftInThePool(t *testing.T) {
	b := newBench(t)
	f := filesystems()["ext4"]
	v := b.images.create(t, "v", f, sizeOf(f))
	b.mustStage(t, v, rwo)
	for _, left := range []volume.Bytes{0, volume.MiB} {
		b.images.left = left
		resp, err := b.stats(t, v, b.staging(v))
		if err != nil {
			t.Fatal(err)
		}
		available := volume.Bytes(resp.GetUsage()[0].GetAvailable())
		if left == 0 && available <= volume.MiB || left > 0 && available != left {
			t.Errorf("the pool has %s left: %s are available", left, available)
		}
	}
	b.images.left = 0
	b.mustEnd(t, v)
}
