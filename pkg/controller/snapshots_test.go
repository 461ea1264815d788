package controller

import (
	"strconv"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestSnapshotIsReadyWithSizeAndTime(t *testing.T) {
	b := newBench(t)
	v := b.mustCreate(t, request("v"))
	s := b.mustSnapshot(t, "s", v.GetVolumeId())
	if !s.GetReadyToUse() || s.GetSizeBytes() != v.GetCapacityBytes() || s.GetSourceVolumeId() != v.GetVolumeId() || s.GetCreationTime().AsTime().IsZero() {
		t.Errorf("snapshot is %v", s)
	}
	again := b.mustSnapshot(t, "s", v.GetVolumeId())
	if diff := cmp.Diff(s, again, protocmp.Transform()); diff != "" {
		t.Errorf("second answer differs:\n%s", diff)
	}
	got, err := b.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: s.GetSnapshotId()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got.GetSnapshot(), protocmp.Transform()); diff != "" {
		t.Errorf("GetSnapshot differs:\n%s", diff)
	}
}

func TestSnapshotRefuses(t *testing.T) {
	b := newBench(t)
	v := b.mustCreate(t, request("v")).GetVolumeId()
	w := b.mustCreate(t, request("w")).GetVolumeId()
	b.mustSnapshot(t, "taken", v)
	for name, tc := range map[string]struct {
		req  *csi.CreateSnapshotRequest
		want error
	}{
		"no name":              {&csi.CreateSnapshotRequest{SourceVolumeId: v}, volume.ErrInvalid},
		"no source":            {&csi.CreateSnapshotRequest{Name: "s"}, volume.ErrInvalid},
		"a malformed source":   {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: "x"}, volume.ErrNotFound},
		"an unknown source":    {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: none(volume.KindVolume)}, volume.ErrNotFound},
		"an unknown parameter": {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v, Parameters: map[string]string{"x": "y"}}, volume.ErrInvalid},
		"another source":       {&csi.CreateSnapshotRequest{Name: "taken", SourceVolumeId: w}, volume.ErrExists},
		"other consistency":    {&csi.CreateSnapshotRequest{Name: "taken", SourceVolumeId: v, Parameters: map[string]string{"consistency": "crash"}}, volume.ErrExists},
		"another pool": {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v, AccessibilityRequirements: &csi.TopologyRequirement{
			Requisite: []*csi.Topology{segment(slowID)}}}, volume.ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.CreateSnapshot(t.Context(), tc.req)
			wantErr(t, err, tc.want)
		})
	}
	if _, err := b.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v,
		Parameters:                map[string]string{"consistency": "crash", "csi.storage.k8s.io/volumesnapshot/name": "x"},
		AccessibilityRequirements: &csi.TopologyRequirement{Requisite: []*csi.Topology{segment(fastID)}}}); err != nil {
		t.Error(err)
	}
}

func TestDeleteSnapshotTwiceSucceeds(t *testing.T) {
	b := newBench(t)
	v := b.mustCreate(t, request("v")).GetVolumeId()
	s := b.mustSnapshot(t, "s", v).GetSnapshotId()
	for _, id := range []string{s, s, "x", none(volume.KindSnapshot), v} {
		if _, err := b.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id}); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
	_, err := b.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{})
	wantErr(t, err, volume.ErrInvalid)
	_, err = b.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: s})
	wantErr(t, err, volume.ErrNotFound)
	if _, err := b.memory.Volume(t.Context(), volume.ID(v)); err != nil {
		t.Errorf("DeleteSnapshot removed a volume: %v", err)
	}
}

func TestListSnapshotsFilters(t *testing.T) {
	b := newBench(t)
	v := b.mustCreate(t, request("v")).GetVolumeId()
	w := b.mustCreate(t, request("w")).GetVolumeId()
	s := b.mustSnapshot(t, "s", v).GetSnapshotId()
	b.mustSnapshot(t, "t", v)
	b.mustSnapshot(t, "u", w)
	for name, tc := range map[string]struct {
		req  *csi.ListSnapshotsRequest
		want int
	}{
		"all":                    {&csi.ListSnapshotsRequest{}, 3},
		"one":                    {&csi.ListSnapshotsRequest{SnapshotId: s}, 1},
		"of one volume":          {&csi.ListSnapshotsRequest{SourceVolumeId: v}, 2},
		"one of its volume":      {&csi.ListSnapshotsRequest{SnapshotId: s, SourceVolumeId: v}, 1},
		"one of another volume":  {&csi.ListSnapshotsRequest{SnapshotId: s, SourceVolumeId: w}, 0},
		"an unknown snapshot":    {&csi.ListSnapshotsRequest{SnapshotId: none(volume.KindSnapshot)}, 0},
		"a malformed snapshot":   {&csi.ListSnapshotsRequest{SnapshotId: "x"}, 0},
		"an unknown volume":      {&csi.ListSnapshotsRequest{SourceVolumeId: none(volume.KindVolume)}, 0},
		"a volume of no pool":    {&csi.ListSnapshotsRequest{SourceVolumeId: "none-of-ours"}, 0},
		"the first of the three": {&csi.ListSnapshotsRequest{MaxEntries: 1}, 1},
	} {
		resp, err := b.ListSnapshots(t.Context(), tc.req)
		if err != nil || len(resp.GetEntries()) != tc.want {
			t.Errorf("%s: got %d entries, %v; want %d", name, len(resp.GetEntries()), err, tc.want)
		}
	}
	for _, req := range []*csi.ListSnapshotsRequest{{StartingToken: "x"}, {StartingToken: "x", SnapshotId: s}} {
		_, err := b.ListSnapshots(t.Context(), req)
		wantErr(t, err, volume.ErrBadToken)
	}
	_, err := b.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: -1})
	wantErr(t, err, volume.ErrInvalid)
	b.memory.Unavailable("default")
	_, err = b.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SnapshotId: s})
	wantErr(t, err, volume.ErrUnavailable)
}

func TestListSnapshotsPagesThroughAFilter(t *testing.T) {
	b := newBench(t)
	v := b.mustCreate(t, request("v")).GetVolumeId()
	w := b.mustCreate(t, request("w")).GetVolumeId()
	for i := range 10 {
		b.mustSnapshot(t, "v"+strconv.Itoa(i), v)
		b.mustSnapshot(t, "w"+strconv.Itoa(i), w)
	}
	got, token := 0, ""
	for {
		resp, err := b.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SourceVolumeId: v, MaxEntries: 3, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		got += len(resp.GetEntries())
		if token = resp.GetNextToken(); token == "" {
			break
		}
	}
	if got != 10 {
		t.Errorf("got %d snapshots in pages, want 10", got)
	}
}
