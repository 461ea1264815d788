package e2e

import (
	"testing"

	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestARetainedVolumeIsImportedByItsHandle(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newClaim("app", classRetain, small))
	app.write("/data/file", 1)
	retained := s.volumeOf("app")
	app.delete()
	volumes := s.kube.CoreV1().PersistentVolumes()
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).Delete(s.ctx, "app", metav1.DeleteOptions{}))
	await(s, aWhile, one(volumes, retained.Name), "is released", func(pv *corev1.PersistentVolume) bool {
		return pv.Status.Phase == corev1.VolumeReleased
	})
	s.must(volumes.Delete(s.ctx, retained.Name, metav1.DeleteOptions{}))
	s.must(gone(s.ctx, aWhile, one(volumes, retained.Name), &corev1.PersistentVolume{}))

	imported := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: s.ns + "-imported",
			// So that the volume is deleted with this object, as a provisioned one is.
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": driverName},
		},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   retained.Spec.AccessModes,
			Capacity:                      retained.Spec.Capacity,
			NodeAffinity:                  retained.Spec.NodeAffinity,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef:                      &corev1.ObjectReference{Namespace: s.ns, Name: "imported"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver:       driverName,
				VolumeHandle: retained.Spec.CSI.VolumeHandle,
				FSType:       retained.Spec.CSI.FSType,
			}},
		},
	}
	_, err := volumes.Create(s.ctx, imported, metav1.CreateOptions{})
	s.must(err)
	claim := newClaim("imported", "", small)
	claim.Spec.VolumeName = imported.Name
	again := s.runClaim(claim)
	again.verify("/data/file", 1)
	again.delete()
	s.deleteClaim("imported")
}

func TestARetainedSnapshotIsImportedByItsHandle(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newClaim("app", classExt4, small))
	app.write("/data/file", 1)
	s.snapshot("instant", "app", s.retainingClass())
	app.delete()
	s.deleteClaim("app")

	retained := s.contentOf("instant")
	contents, snapshots := s.snap.SnapshotV1().VolumeSnapshotContents(), s.snap.SnapshotV1().VolumeSnapshots(s.ns)
	s.must(snapshots.Delete(s.ctx, "instant", metav1.DeleteOptions{}))
	s.must(gone(s.ctx, aWhile, one(snapshots, "instant"), &snapv1.VolumeSnapshot{}))
	kept := await(s, aWhile, one(contents, retained.Name), "is still there", func(*snapv1.VolumeSnapshotContent) bool { return true })
	handle := snapshotHandle(kept)
	s.must(contents.Delete(s.ctx, kept.Name, metav1.DeleteOptions{}))
	s.must(gone(s.ctx, aWhile, one(contents, kept.Name), &snapv1.VolumeSnapshotContent{}))

	imported := s.ns + "-imported"
	_, err := contents.Create(s.ctx, &snapv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: imported},
		Spec: snapv1.VolumeSnapshotContentSpec{
			Driver:            driverName,
			DeletionPolicy:    snapv1.VolumeSnapshotContentDelete,
			Source:            snapv1.VolumeSnapshotContentSource{SnapshotHandle: &handle},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: s.ns, Name: "imported"},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.createSnapshot("imported", "", snapv1.VolumeSnapshotSource{VolumeSnapshotContentName: &imported})
	restored := s.runClaim(restoreOf("imported", newClaim("restored", classExt4, small)))
	restored.verify("/data/file", 1)
	s.deleteSnapshot("imported")
}
