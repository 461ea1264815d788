package node

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestWhatIsShownIsAnsweredWithALook(t *testing.T) {
	for name, f := range map[string]volume.Format{"ext4": ext4, "block": block} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			repeats := func(req any) bool {
				t.Helper()
				resp, ok := b.Repeats(t.Context(), req)
				if _, is := resp.(*csi.NodePublishVolumeResponse); is != ok {
					t.Errorf("the answer is %v, %v", resp, ok)
				}
				return ok
			}
			rw, ro := b.publishRequest(v, "rw", rwo), readOnly(b.publishRequest(v, "ro", rwo))
			if repeats(rw) {
				t.Error("it is not staged")
			}
			b.mustStage(t, v, rwo)
			if repeats(rw) || repeats(ro) || len(b.mounts(t)) > 1 {
				t.Error("it is not published")
			}
			b.mustPublish(t, rw)
			b.mustPublish(t, ro)
			before := len(b.mounts(t))
			rw.Secrets = map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": "another"}
			if !repeats(rw) || !repeats(ro) {
				t.Error("what is shown is not seen")
			}
			for what, req := range map[string]any{
				"read-only where it can be written to": readOnly(b.publishRequest(v, "rw", rwo)),
				"for writing where it is read-only":    b.publishRequest(v, "ro", rwo),
				"another target":                       b.publishRequest(v, "none", rwo),
				"a target out of bounds":               &csi.NodePublishVolumeRequest{VolumeId: string(v.ID), TargetPath: "/etc", StagingTargetPath: b.staging(v), VolumeCapability: capabilityOf(f, rwo)},
				"another kind of volume":               &csi.NodePublishVolumeRequest{VolumeId: string(v.ID), TargetPath: b.target("rw"), StagingTargetPath: b.staging(v), VolumeCapability: capabilityOf(xfs, rwo)},
				"no such volume":                       &csi.NodePublishVolumeRequest{VolumeId: "x", TargetPath: b.target("rw"), StagingTargetPath: b.staging(v), VolumeCapability: capabilityOf(f, rwo)},
				"another call":                         &csi.NodeUnpublishVolumeRequest{VolumeId: string(v.ID), TargetPath: b.target("rw")},
			} {
				if repeats(req) {
					t.Errorf("%s: it passes for shown", what)
				}
			}
			if n := len(b.mounts(t)); n != before {
				t.Errorf("there are %d mounts, before the looks there were %d", n, before)
			}
			if err := unix.Unmount(b.target("rw"), unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			if repeats(rw) {
				t.Error("it was unmounted, and passes for shown")
			}
			b.mustEnd(t, v, "rw", "ro")
		})
	}
}
