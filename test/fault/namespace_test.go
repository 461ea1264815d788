package fault

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// inPod starts the driver as a container is: in mount and PID namespaces of its
// own, which end with it.
var inPod = []string{"unshare", "--mount", "--propagation", "unchanged", "--pid", "--fork", "--mount-proc", "--kill-child"}

// share makes a directory what Bidirectional mount propagation makes of a
// hostPath.
func share(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
}

// poolLoops are the loop devices that have the box's pool image.
func (w *world) poolLoops() []loop.Info {
	w.t.Helper()
	loops, err := loop.List()
	w.must(err)
	var stat unix.Stat_t
	w.must(unix.Stat(filepath.Join(w.box.Pools(), "pool.img"), &stat))
	var out []loop.Info
	for _, l := range loops {
		if l.BackingDev == stat.Dev && l.BackingInode == stat.Ino {
			out = append(out, l)
		}
	}
	return out
}

// mustHaveOnePool demands that the pool image is attached once, as the same
// device as before.
func (w *world) mustHaveOnePool(index int) {
	w.t.Helper()
	loops := w.poolLoops()
	if len(loops) != 1 || loops[0].Index != index {
		w.t.Fatalf("the pool image was on loop%d and now is on %+v", index, loops)
	}
}

// A pod's mounts of the pool and of volumes outlive it.
func TestKilledInAPodVolumesStayUp(t *testing.T) {
	w := newWorld(t, inPod...)
	share(t, w.box.Kubelet())
	share(t, w.box.Pools())
	w.killRounds()
	mounts, err := mount.List()
	w.must(err)
	if n := len(mount.At(mounts, filepath.Join(w.box.Pools(), "pool"))); n != 1 {
		t.Errorf("the pool is mounted %d times", n)
	}
	w.end()
}

// A pod whose pool directory is not propagated takes the pool's mount with it,
// while the loops of its volumes still have the pool's files open.
func TestKilledInAPodWithAPrivatePoolMountTheImageIsNotAttachedTwice(t *testing.T) {
	w := newWorld(t, inPod...)
	share(t, w.box.Kubelet())
	w.killRounds()
	ctx := t.Context()
	acked, err := w.journal.Stop()
	w.must(err)
	t.Logf("the witness wrote %d records", acked)
	w.must(w.driver.Client.Stop(ctx, w.witness, witnessPod, witnessClaim))
	w.must(w.driver.Delete(ctx, w.witness))
	w.driver.Stop()
}

// killRounds kills the driver again and again with a volume mounted, and uses it
// in between.
func (w *world) killRounds() {
	w.t.Helper()
	w.begin()
	loops := w.poolLoops()
	if len(loops) != 1 {
		w.t.Fatalf("the pool image is on %d loop devices", len(loops))
	}
	ctx := w.t.Context()
	for round := range 3 {
		w.driver.Kill()
		w.must(w.checkWitness())
		w.mustHaveOnePool(loops[0].Index)
		w.driver = w.box.Start()
		w.must(w.checkWitness())
		w.mustHaveOnePool(loops[0].Index)

		claim := orchestrator.Claim{Name: fmt.Sprintf("round-%d", round), Size: 64 * volume.MiB, FSType: volume.Ext4}
		v, err := w.driver.Create(ctx, claim)
		w.must(err)
		target, err := w.driver.Start(ctx, v.GetVolumeId(), pod, claim, false)
		w.must(err)
		w.must(workload.Write(filepath.Join(target, "data"), seed, dataSize, true))
		snap, err := w.driver.Snapshot(ctx, claim.Name, w.witness)
		w.must(err)
		w.must(w.driver.DeleteSnapshot(ctx, snap.GetSnapshotId()))
		w.must(w.driver.Client.Stop(ctx, v.GetVolumeId(), pod, claim))
		w.must(w.driver.Delete(ctx, v.GetVolumeId()))
	}
}
