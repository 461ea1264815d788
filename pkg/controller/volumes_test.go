package controller

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestDeleteTwiceSucceeds(t *testing.T) {
	b := newBench(t)
	id := b.mustCreate(t, request("v")).GetVolumeId()
	for range 2 {
		if _, err := b.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.memory.Volume(t.Context(), volume.ID(id)); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("volume after delete: %v, want not found", err)
	}
}

func TestDeleteOfWhatCannotExistSucceeds(t *testing.T) {
	b := newBench(t)
	snap := b.mustSnapshot(t, "s", b.mustCreate(t, request("v")).GetVolumeId())
	for _, id := range []string{"x", "../../etc", "vol.", string(make([]byte, 5<<20)), none(volume.KindVolume), snap.GetSnapshotId()} {
		if _, err := b.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Errorf("delete %.40q: %v", id, err)
		}
	}
	if _, err := b.memory.Snapshot(t.Context(), volume.ID(snap.GetSnapshotId())); err != nil {
		t.Errorf("DeleteVolume removed a snapshot: %v", err)
	}
	_, err := b.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{})
	wantErr(t, err, volume.ErrInvalid)
}

func TestDeleteInAPoolThatIsAwayIsUnavailable(t *testing.T) {
	b := newBench(t)
	id := b.mustCreate(t, request("v")).GetVolumeId()
	b.memory.Unavailable("default")
	_, err := b.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	wantErr(t, err, volume.ErrUnavailable)
	elsewhere := string(volume.NewID(volume.KindVolume, "00000000000000ff", "v"))
	_, err = b.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: elsewhere})
	wantErr(t, err, volume.ErrUnavailable)
}

func TestGetVolumeAnswersWhatCreateAnswered(t *testing.T) {
	b := newBench(t)
	created := b.mustCreate(t, request("v"))
	resp, err := b.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: created.GetVolumeId()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(created, resp.GetVolume(), protocmp.Transform()); diff != "" {
		t.Errorf("volume (-created +got):\n%s", diff)
	}
	if resp.GetStatus() == nil {
		t.Error("the status is required and missing")
	}
	for id, want := range map[string]error{"": volume.ErrInvalid, "x": volume.ErrNotFound, none(volume.KindVolume): volume.ErrNotFound} {
		_, err := b.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
		wantErr(t, err, want)
	}
}

func TestListVolumesPagesThroughInsertsAndDeletes(t *testing.T) {
	b := newBench(t)
	want := map[string]bool{}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		want[b.mustCreate(t, request(name)).GetVolumeId()] = true
	}
	got := map[string]bool{}
	token := ""
	for i := 0; ; i++ {
		resp, err := b.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEntries() {
			id := e.GetVolume().GetVolumeId()
			if got[id] {
				t.Errorf("%s is listed twice", id)
			}
			got[id] = true
			// The very entry that the token points to goes away, and one comes.
			if _, err := b.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
				t.Fatal(err)
			}
		}
		b.mustCreate(t, request("new-"+string(rune('a'+i)), withCaps(blockCap(rwo)), withSize(1<<20, 0)))
		if token = resp.GetNextToken(); token == "" {
			break
		}
	}
	for id := range want {
		if !got[id] {
			t.Errorf("%s was there all the time and was not listed", id)
		}
	}
}

func TestListVolumesRefusesBadPages(t *testing.T) {
	b := newBench(t)
	_, err := b.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: "invalid-token"})
	wantErr(t, err, volume.ErrBadToken)
	_, err = b.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	wantErr(t, err, volume.ErrInvalid)
}

func TestListVolumesLeavesOutAPoolThatIsAway(t *testing.T) {
	b := newBench(t)
	b.mustCreate(t, request("v"))
	far := b.mustCreate(t, request("w", withParameters(map[string]string{"pool": "hdd"})))
	b.memory.Unavailable("default")
	resp, err := b.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(resp.GetEntries()) != 1 || resp.GetEntries()[0].GetVolume().GetVolumeId() != far.GetVolumeId() {
		t.Errorf("got %v, %v; want the one volume of hdd", resp, err)
	}
}
