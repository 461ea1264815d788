package node

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAFailedFilesystemIsExplained(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ESTALE, unix.ENOTCONN} {
		err := explainFailure("vol.x", fmt.Errorf("measure: %w", errno))
		if !errors.Is(err, volume.ErrPrecondition) || !errors.Is(err, errno) {
			t.Errorf("%v became %v", errno, err)
		}
	}
	if err := explainFailure("vol.x", unix.ENOMEM); errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("the machine's own trouble was blamed on the filesystem: %v", err)
	}
}

// shutdown stops the filesystem that is mounted at a path as a dead disk does.
func shutdown(t *testing.T, path string) {
	t.Helper()
	const (
		goingDown = 0x8004587d // _IOR('X', 125, __u32)
		noLog     = 2
	)
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.IoctlSetPointerInt(int(root.Fd()), goingDown, noLog); err != nil {
		t.Fatal(err)
	}
}

func TestAFilesystemThatShutItselfDownIsNotGivenToANewPod(t *testing.T) {
	for name, f := range filesystems() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.images.create(t, "v", f, sizeOf(f))
			b.mustStage(t, v, rwo)
			b.mustPublish(t, b.publishRequest(v, "old", rwo))
			write(t, b.target("old")+"/file", "content")
			syncAt(t, b.target("old"))
			shutdown(t, b.staging(v))
			_, err := b.NodeStageVolume(t.Context(), b.stageRequest(v, rwo))
			wantErr(t, err, volume.ErrPrecondition)
			for _, req := range []*csi.NodePublishVolumeRequest{b.publishRequest(v, "new", rwo), readOnly(b.publishRequest(v, "new", rwo))} {
				_, err := b.NodePublishVolume(t.Context(), req)
				wantErr(t, err, volume.ErrPrecondition)
			}
			if _, err := os.Lstat(b.target("new")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the target was made: %v", err)
			}
			// What was published stays so, whatever its filesystem: a final error would
			// tear the pod's volume down under it.
			b.mustPublish(t, b.publishRequest(v, "old", rwo))
			b.mustEnd(t, v, "old")
			b.mustStage(t, v, rwo)
			wantContent(t, b.staging(v)+"/file", "content")
			b.mustEnd(t, v)
		})
	}
}

func syncAt(t *testing.T, path string) {
	t.Helper()
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := filesystem.Sync(root); err != nil {
		t.Fatal(err)
	}
}
