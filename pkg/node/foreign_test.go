package node

import (
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAWrongPathNeverTakesTheMountOfAnotherVolume(t *testing.T) {
	for name, f := range formatsToCrash() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			w := b.images.create(t, "w", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			b.mustPublish(t, b.publishRequest(v, "rw", rwo))
			b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
			theirs := b.mounts(t)
			b.mustStage(t, w, rwo)
			before := b.mounts(t)
			for _, id := range []string{string(w.ID), "x"} {
				for _, path := range theirs {
					_, err := b.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: path})
					wantErr(t, err, volume.ErrPrecondition)
					_, err = b.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: path})
					wantErr(t, err, volume.ErrPrecondition)
				}
			}
			if after := b.mounts(t); len(after) != len(before) {
				t.Errorf("%v became %v", before, after)
			}
			if err := b.unstage(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			b.mustEnd(t, v, "rw", "ro")
		})
	}
}

func TestAWrongPathNeverTakesAMountThatIsNoVolume(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	token, hosts := b.target("token"), b.target("hosts")
	if err := os.Mkdir(token, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", token, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	write(t, token+"/token", "secret")
	write(t, hosts, "")
	if err := unix.Mount(token+"/token", hosts, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unknown := string(volume.NewID(volume.KindVolume, testPool, "?"))
	for _, id := range []string{string(v.ID), unknown, "x"} {
		for _, path := range []string{token, hosts} {
			_, err := b.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: path})
			wantErr(t, err, volume.ErrPrecondition)
			_, err = b.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: path})
			wantErr(t, err, volume.ErrPrecondition)
		}
	}
	wantContent(t, token+"/token", "secret")
	wantContent(t, hosts, "secret")
}

func TestWhatLiesOnTheVolumesOwnMountGoesWithIt(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", ext4, sizeOf(ext4))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "p", rwo))
	if err := unix.Mount("none", b.target("p"), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	b.mustEnd(t, v, "p")
}

func TestADeadMountOfAnotherVolumeIsRemoved(t *testing.T) {
	for name, f := range filesystems() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			b.mustPublish(t, b.publishRequest(v, "p", rwo))
			shutdown(t, b.target("p"))
			for range 2 {
				if _, err := b.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "x", TargetPath: b.target("p")}); err != nil {
					t.Fatal(err)
				}
			}
			b.mustEnd(t, v, "p")
		})
	}
}

func TestADeviceThatWasDetachedByForceDoesNotKeepItsTargets(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, b.publishRequest(v, "rw", rwo))
	b.mustPublish(t, readOnly(b.publishRequest(v, "ro", rwo)))
	if err := detachStacked(stackedOf(t, v)[0]); err != nil {
		t.Fatal(err)
	}
	if err := b.images.Detach(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	b.mustEnd(t, v, "rw", "ro")
}
