package controller

import (
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func cut(n int) volume.Condition {
	return volume.Condition{Severity: volume.Lost, Reason: "ImageTooShort", Message: fmt.Sprintf("it has %d bytes", n)}
}

func TestHealthOfAVolume(t *testing.T) {
	b := newBench(t)
	v := b.mustCreate(t, request("a"))
	get := func() *csi.VolumeHealth {
		t.Helper()
		resp, err := b.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: v.VolumeId})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetVolumeHealth()
	}
	want := &csi.VolumeHealth{VolumeId: v.VolumeId}
	if diff := cmp.Diff(want, get(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	b.memory.Sicken(volume.ID(v.VolumeId), cut(1))
	want.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{Status: csi.VolumeHealthErrorType_DATA_LOSS, Reason: "ImageTooShort", Message: "it has 1 bytes"}}
	if diff := cmp.Diff(want, get(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	b.memory.Sicken(volume.ID(v.VolumeId))
	if got := get(); len(got.GetHealthStatuses()) > 0 {
		t.Errorf("it is well again: %v", got)
	}
}

func TestHealthOfWhatDoesNotExist(t *testing.T) {
	b := newBench(t)
	for id, want := range map[string]error{"": volume.ErrInvalid, "x": volume.ErrNotFound, none(volume.KindVolume): volume.ErrNotFound, none(volume.KindSnapshot): volume.ErrNotFound} {
		_, err := b.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
		wantErr(t, err, want)
	}
}

func TestOnlyUnhealthyVolumesAreListedInPages(t *testing.T) {
	b := newBench(t)
	sick := map[string]bool{}
	for i := range 7 {
		v := b.mustCreate(t, request(fmt.Sprint("v", i)))
		if i%2 == 0 {
			b.memory.Sicken(volume.ID(v.VolumeId), cut(i))
			sick[v.VolumeId] = true
		}
	}
	got, token := map[string]bool{}, ""
	for {
		resp, err := b.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: 3, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEntries() {
			if got[e.GetVolumeId()] || len(e.GetHealthStatuses()) != 1 {
				t.Errorf("listed twice, or without what is wrong: %v", e)
			}
			got[e.GetVolumeId()] = true
		}
		if token = resp.GetNextToken(); token == "" {
			break
		}
	}
	if diff := cmp.Diff(sick, got); diff != "" {
		t.Error(diff)
	}
	_, err := b.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{StartingToken: "no token of ours"})
	wantErr(t, err, volume.ErrBadToken)
	_, err = b.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: -1})
	wantErr(t, err, volume.ErrInvalid)
}
