package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestAPodWaitsForSpaceAndSaysSo fills the pool but for 1 GiB. It is not parallel:
// nobody else would find space.
func TestAPodWaitsForSpaceAndSaysSo(t *testing.T) {
	s := newScene(t)
	empty := s.awaitRoom("has enough for the test", func(room volume.Bytes) bool { return room > 4*volume.GiB })
	s.step("the largest volume that fits: %s", empty)
	big := s.runClaim(newClaim("big", classExt4, size(empty-volume.GiB)))
	big.write("/data/file", 1)
	used := s.awaitRoom("follows what is used", func(room volume.Bytes) bool { return room < 2*volume.GiB })
	s.step("with a volume of %s: %s", empty-volume.GiB, used)

	s.claim(newClaim("late", classExt4, "2Gi"))
	late := s.create(idle("late", "late"))
	event := s.awaitEvent("late", "FailedScheduling", "did not have enough free storage")
	s.step("a pod with a claim of 2 GiB: %s", event.Message)
	late.await("waits", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodPending && p.Spec.NodeName == "" })

	// A claim that waits for nobody hears it from the driver.
	s.claim(newClaim("refused", s.immediate(classExt4), "2Gi"))
	event = s.awaitEvent("refused", "ProvisioningFailed",
		`ResourceExhausted.*pool default has .* free, which is enough for promises of .*; delete volumes or snapshots, or enlarge the pool`)
	s.step("a claim of 2 GiB without a pod: %s", event.Message)
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).Delete(s.ctx, "refused", metav1.DeleteOptions{}))

	big.verify("/data/file", 1)
	big.delete()
	s.deleteClaim("big")
	s.step("the big volume is deleted")
	s.step("now: %s", s.awaitRoom("has the space back", func(room volume.Bytes) bool { return room > 3*volume.GiB }))
	late.await("runs", running)
	s.step("the pod that waited runs")
	late.write("/data/file", 2)
	late.verify("/data/file", 2)
}

// awaitRoom waits until the scheduler is told of a largest possible volume that is
// as it should be.
func (s *scene) awaitRoom(state string, ok func(volume.Bytes) bool) volume.Bytes {
	s.t.Helper()
	capacities := all(s.kube.StorageV1().CSIStorageCapacities(driverNamespace), "capacities")
	found := await(s, aWhile, capacities, state, func(c *storagev1.CSIStorageCapacity) bool {
		return c.StorageClassName == classExt4 && ok(bytesOf(c.MaximumVolumeSize))
	})
	return bytesOf(found.MaximumVolumeSize)
}

func bytesOf(q *resource.Quantity) volume.Bytes {
	if q == nil {
		return 0
	}
	return volume.Bytes(q.Value())
}
