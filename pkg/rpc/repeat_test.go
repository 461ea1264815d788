package rpc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// TestARepeatedPublishIsNotAbortedByASnapshot: the snapshot has the volume alone, and
// takes long.
func TestARepeatedPublishIsNotAbortedByASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ops := testOperations(t.Context())
		shown := map[string]bool{"/shown": true, "/panics": true}
		ops.repeats = func(_ context.Context, req any) (any, bool) {
			target := req.(*csi.NodePublishVolumeRequest).GetTargetPath()
			if target == "/panics" {
				panic("a bug")
			}
			return "as it was", shown[target]
		}
		publish := func(volume, target string) *csi.NodePublishVolumeRequest {
			return &csi.NodePublishVolumeRequest{VolumeId: volumeID(volume), TargetPath: target}
		}
		snapshot := &csi.CreateSnapshotRequest{SourceVolumeId: volumeID("v"), Name: "s"}
		go func() { _, _ = ops.try(t.Context(), snapshot, takes(time.Minute, "")) }()
		synctest.Wait()
		ran := func(context.Context, any) (any, error) { return "ran", nil }
		for _, c := range []struct {
			what, volume, target string
			want                 any
			code                 codes.Code
		}{
			{"shown", "v", "/shown", "as it was", codes.OK},
			{"shown, once more", "v", "/shown", "as it was", codes.OK},
			{"not shown", "v", "/new", nil, codes.Aborted},
			{"the look fails", "v", "/panics", nil, codes.Aborted},
			{"another volume", "w", "/shown", "ran", codes.OK},
		} {
			answer, err := ops.try(t.Context(), publish(c.volume, c.target), ran)
			if answer != c.want || Code(err) != c.code {
				t.Errorf("%s: %v, %v; want %v, %s", c.what, answer, err, c.want, c.code)
			}
		}
		// Nothing but a publication is answered so.
		if _, err := ops.try(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: volumeID("v"), VolumePath: "/shown"}, ran); Code(err) != codes.Aborted {
			t.Errorf("an expansion: %v", err)
		}
		time.Sleep(time.Minute)
		wantEmpty(t, ops.locks)

		// While it is being unpublished nobody says that it is shown.
		unpublish := &csi.NodeUnpublishVolumeRequest{VolumeId: volumeID("v"), TargetPath: "/shown"}
		go func() { _, _ = ops.try(t.Context(), unpublish, takes(time.Minute, "")) }()
		synctest.Wait()
		if _, err := ops.try(t.Context(), publish("v", "/shown"), ran); Code(err) != codes.Aborted {
			t.Errorf("while it is being unpublished: %v", err)
		}
		time.Sleep(time.Minute)
		wantEmpty(t, ops.locks)
	})
}
