package e2e

import (
	"encoding/json"
	"testing"

	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What Velero does with a claim, object by object and in its order, as its source
// says (v1.18: pkg/backup/actions/csi, pkg/exposer, pkg/restore/actions/csi,
// internal/delete/actions/csi). Velero itself is not here.

// veleroClass is the class that Velero takes by its label.
func (s *scene) veleroClass() string {
	s.t.Helper()
	class, err := s.snap.SnapshotV1().VolumeSnapshotClasses().Get(s.ctx, classSnapshot, metav1.GetOptions{})
	s.must(err)
	class.ObjectMeta = metav1.ObjectMeta{Name: s.ns + "-velero", Labels: map[string]string{sceneLabel: s.ns, "velero.io/csi-volumesnapshot-class": "true"}}
	_, err = s.snap.SnapshotV1().VolumeSnapshotClasses().Create(s.ctx, class, metav1.CreateOptions{})
	s.must(err)
	return class.Name
}

// veleroSnapshot is what a backup begins with.
func (s *scene) veleroSnapshot(name, claim, class string) *snapv1.VolumeSnapshotContent {
	s.t.Helper()
	_, err := s.snap.SnapshotV1().VolumeSnapshots(s.ns).Create(s.ctx, &snapv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"velero.io/backup-name": "nightly"}},
		Spec: snapv1.VolumeSnapshotSpec{
			Source: snapv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim}, VolumeSnapshotClassName: &class,
		},
	}, metav1.CreateOptions{})
	s.must(err)
	await(s, aWhile, one(s.snap.SnapshotV1().VolumeSnapshots(s.ns), name), "is ready to use", func(v *snapv1.VolumeSnapshot) bool {
		return v.Status != nil && v.Status.ReadyToUse != nil && *v.Status.ReadyToUse && v.Status.RestoreSize != nil && !v.Status.RestoreSize.IsZero()
	})
	content := s.contentOf(name)
	if snapshotHandle(content) == "" || content.Status.RestoreSize == nil {
		s.t.Fatalf("the content has no handle or no size:\n%s", asYAML(content))
	}
	return content
}

// policy changes what happens to the snapshot when its content goes.
func (s *scene) policy(content string, policy snapv1.DeletionPolicy) {
	s.t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"deletionPolicy": policy}})
	s.must(err)
	_, err = s.snap.SnapshotV1().VolumeSnapshotContents().Patch(s.ctx, content, types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}

// forget deletes a VolumeSnapshot and its content, and keeps the snapshot on the
// disk: contents that were set to Retain. That the content is gone already is well for
// Velero too: the snapshot controller deletes it with its VolumeSnapshot where it has
// not yet seen that it is to be retained.
func (s *scene) forget(snapshot, content string) {
	s.t.Helper()
	s.policy(content, snapv1.VolumeSnapshotContentRetain)
	snapshots, contents := s.snap.SnapshotV1().VolumeSnapshots(s.ns), s.snap.SnapshotV1().VolumeSnapshotContents()
	s.must(snapshots.Delete(s.ctx, snapshot, metav1.DeleteOptions{}))
	s.must(gone(s.ctx, aWhile, one(snapshots, snapshot), &snapv1.VolumeSnapshot{}))
	if err := contents.Delete(s.ctx, content, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		s.must(err)
	}
	s.must(gone(s.ctx, aWhile, one(contents, content), &snapv1.VolumeSnapshotContent{}))
}

// bindAgain makes a VolumeSnapshot, then a content for it by the handle of a
// snapshot that exists, both of one name. Velero does so in its own namespace; here
// it is that of the scene, which it may not leave.
func (s *scene) bindAgain(name, handle, class string, policy snapv1.DeletionPolicy) {
	s.t.Helper()
	snapshots := s.snap.SnapshotV1().VolumeSnapshots(s.ns)
	spec := snapv1.VolumeSnapshotSpec{Source: snapv1.VolumeSnapshotSource{VolumeSnapshotContentName: s.inScene(name)}}
	var ofClass *string
	if class != "" {
		ofClass = &class
		spec.VolumeSnapshotClassName = ofClass
	}
	v, err := snapshots.Create(s.ctx, &snapv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	s.must(err)
	_, err = s.snap.SnapshotV1().VolumeSnapshotContents().Create(s.ctx, &snapv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: *s.inScene(name)},
		Spec: snapv1.VolumeSnapshotContentSpec{
			VolumeSnapshotRef: corev1.ObjectReference{Name: v.Name, Namespace: v.Namespace, UID: v.UID, ResourceVersion: v.ResourceVersion},
			Source:            snapv1.VolumeSnapshotContentSource{SnapshotHandle: &handle},
			DeletionPolicy:    policy, Driver: driverName, VolumeSnapshotClassName: ofClass,
		},
	}, metav1.CreateOptions{})
	s.must(err)
	await(s, aWhile, one(snapshots, name), "is ready to use", func(v *snapv1.VolumeSnapshot) bool {
		return v.Status != nil && v.Status.ReadyToUse != nil && *v.Status.ReadyToUse
	})
}

// inScene makes a name that no other test has.
func (s *scene) inScene(name string) *string {
	full := s.ns + "-" + name
	return &full
}

// backupClaim is the claim that the data mover makes of a snapshot.
func backupClaim(name, class string, mode *corev1.PersistentVolumeMode, size resource.Quantity, readOnly bool) *corev1.PersistentVolumeClaim {
	claim := restoreOf(name, newClaim(name, class, size.String()))
	claim.Spec.VolumeMode = mode
	if readOnly {
		claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	}
	return claim
}

// backupPod is the pod of the data mover: with its own user, without a grace period,
// read-only if its claim is.
func backupPod(name string, mode *corev1.PersistentVolumeMode, readOnly bool) *corev1.Pod {
	p := idle(name, name)
	if mode != nil && *mode == corev1.PersistentVolumeBlock {
		p = idleOnDevice(name, name)
	} else {
		p.Spec.Containers[0].VolumeMounts[0].ReadOnly = readOnly
	}
	p.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = readOnly
	root, now := int64(0), int64(0)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &root}
	p.Spec.TerminationGracePeriodSeconds = &now
	return p
}

// TestVelerosDataMoverReadsASnapshot: the snapshot is retained and deleted as an
// object, bound again by its handle, restored to a claim that a pod reads while the
// source is written to, and everything is deleted in the mover's order.
func TestVelerosDataMoverReadsASnapshot(t *testing.T) {
	t.Parallel()
	block := corev1.PersistentVolumeBlock
	for name, c := range map[string]struct {
		class    string
		mode     *corev1.PersistentVolumeMode
		readOnly bool
	}{
		"ext4":            {classExt4, nil, false},
		"ext4 read-only":  {classExt4, nil, true},
		"xfs read-only":   {classXFS, nil, true},
		"block":           {classExt4, &block, false},
		"block read-only": {classExt4, &block, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			path := "/data/file"
			claim := newClaim("app", c.class, smallOf(c.class))
			if c.mode != nil {
				path, claim.Spec.VolumeMode = dataDevice, c.mode
			}
			app := s.runClaim(claim)
			app.write(path, 1)
			class := s.veleroClass()
			content := s.veleroSnapshot("velero-app", "app", class)
			app.write(path, 2)

			const upload = "nightly-x7k2p" // the name of the DataUpload, which all has
			s.step("the snapshot is bound again, then its first objects go")
			s.bindAgainThenForget(upload, "velero-app", content, class)
			s.step("a pod reads it")
			s.claim(backupClaim(upload, c.class, c.mode, *resource.NewQuantity(*content.Status.RestoreSize, resource.BinarySI), c.readOnly))
			mover := s.run(backupPod(upload, c.mode, c.readOnly))
			mover.verify(path, 1)
			app.write(path, 3)
			mover.verify(path, 1)
			if c.readOnly {
				if _, err := s.execute(upload, mainContainer, workloadProgram, "write", path, "4096", "9"); err == nil {
					t.Error("a read-only volume was written to")
				}
			}
			app.verify(path, 3)
			s.step("it cleans up: pod, claim, snapshot")
			mover.delete()
			s.deleteClaim(upload)
			s.deleteSnapshot(upload)
			app.verify(path, 3)
		})
	}
}

// bindAgainThenForget does what the exposer does: both contents have the handle for
// an instant.
func (s *scene) bindAgainThenForget(name, snapshot string, content *snapv1.VolumeSnapshotContent, class string) {
	s.t.Helper()
	s.bindAgain(name, snapshotHandle(content), class, snapv1.VolumeSnapshotContentDelete)
	s.forget(snapshot, content.Name)
}

// TestVelerosSnapshotIsRestoredAndDeletedWithItsBackup is the way without data
// movement: when the backup is complete its objects are deleted and the snapshot
// stays; a restore binds it by its handle, with Retain; the deletion of the backup
// makes a content with Delete, and deletes it, which takes the snapshot away.
func TestVelerosSnapshotIsRestoredAndDeletedWithItsBackup(t *testing.T) {
	t.Parallel()
	block := corev1.PersistentVolumeBlock
	for name, mode := range map[string]*corev1.PersistentVolumeMode{"filesystem": nil, "block": &block} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			path := "/data/file"
			claim := newClaim("app", classExt4, small)
			if mode != nil {
				path, claim.Spec.VolumeMode = dataDevice, mode
			}
			app := s.runClaim(claim)
			app.write(path, 1)
			content := s.veleroSnapshot("velero-app", "app", s.veleroClass())
			handle := snapshotHandle(content)
			s.step("the backup is complete")
			s.forget("velero-app", content.Name)
			s.step("disaster")
			app.delete()
			s.deleteClaim("app")

			for _, restore := range []string{"first", "second"} {
				s.step("the %s restore", restore)
				s.bindAgain(restore, handle, "", snapv1.VolumeSnapshotContentRetain)
				again := restoreOf(restore, newClaim("app-"+restore, classExt4, small))
				again.Spec.VolumeMode = mode
				restored := s.runClaim(again)
				restored.verify(path, 1)
				restored.write(path, 5)
				s.forget(restore, *s.inScene(restore)) // as the first objects: the snapshot stays
			}
			s.step("the backup is deleted")
			contents := s.snap.SnapshotV1().VolumeSnapshotContents()
			temporary, err := contents.Create(s.ctx, &snapv1.VolumeSnapshotContent{
				// The metadata is that of the content in the backup: its finalizer is what
				// keeps this one until the snapshot is gone, for nobody gives one to a
				// content whose VolumeSnapshot is missing.
				ObjectMeta: metav1.ObjectMeta{Name: *s.inScene("vsc-4f0c"), Finalizers: content.Finalizers},
				Spec: snapv1.VolumeSnapshotContentSpec{
					// There is no such VolumeSnapshot, nor need its namespace exist.
					VolumeSnapshotRef: corev1.ObjectReference{APIVersion: "snapshot.storage.k8s.io/v1", Kind: "VolumeSnapshot", Namespace: "ns-" + s.ns, Name: "name-4f0c"},
					Source:            snapv1.VolumeSnapshotContentSource{SnapshotHandle: &handle},
					DeletionPolicy:    snapv1.VolumeSnapshotContentDelete, Driver: driverName,
				},
			}, metav1.CreateOptions{})
			s.must(err)
			await(s, aWhile, one(contents, temporary.Name), "is ready to use", func(c *snapv1.VolumeSnapshotContent) bool {
				return c.Status != nil && c.Status.ReadyToUse != nil && *c.Status.ReadyToUse
			})
			s.must(contents.Delete(s.ctx, temporary.Name, metav1.DeleteOptions{}))
			s.must(gone(s.ctx, aWhile, one(contents, temporary.Name), &snapv1.VolumeSnapshotContent{}))
			// The volumes that were restored are their own.
			for _, restore := range []string{"first", "second"} {
				(&pod{s: s, name: "app-" + restore}).verify(path, 5)
			}
		})
	}
}

// TestVelerosRestoredVolumeIsBoundToAnotherClaim: the data mover downloads into a
// claim of its own, then takes the volume away from it (Retain, the claim deleted) and
// gives it to the claim that the application waits for.
func TestVelerosRestoredVolumeIsBoundToAnotherClaim(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	claims, volumes := s.kube.CoreV1().PersistentVolumeClaims(s.ns), s.kube.CoreV1().PersistentVolumes()
	// The application's claim must not be provisioned meanwhile: a selector keeps it
	// from that, and from any volume without the label.
	label := map[string]string{"velero.io/dynamic-pv-restore": s.ns}
	waiting := newClaim("app", classExt4, small)
	waiting.Spec.Selector = &metav1.LabelSelector{MatchLabels: label}
	s.claim(waiting)
	mover := s.runClaim(newClaim("download", classExt4, small))
	mover.write("/data/file", 1)
	pv := s.volumeOf("download")
	patchVolume := func(patch any) {
		t.Helper()
		text, err := json.Marshal(patch)
		s.must(err)
		_, err = volumes.Patch(s.ctx, pv.Name, types.MergePatchType, text, metav1.PatchOptions{})
		s.must(err)
	}
	patchVolume(map[string]any{"spec": map[string]any{"persistentVolumeReclaimPolicy": "Retain"}})
	mover.delete()
	s.must(claims.Delete(s.ctx, "download", metav1.DeleteOptions{}))
	s.must(gone(s.ctx, aWhile, one(claims, "download"), &corev1.PersistentVolumeClaim{}))
	text, err := json.Marshal(map[string]any{"spec": map[string]any{"volumeName": pv.Name}})
	s.must(err)
	_, err = claims.Patch(s.ctx, "app", types.MergePatchType, text, metav1.PatchOptions{})
	s.must(err)
	patchVolume(map[string]any{
		"metadata": map[string]any{"labels": label, "annotations": map[string]any{"pv.kubernetes.io/bound-by-controller": nil}},
		"spec": map[string]any{"claimRef": map[string]any{
			"kind": "PersistentVolumeClaim", "namespace": s.ns, "name": "app", "uid": nil, "resourceVersion": nil, "apiVersion": nil,
		}},
	})
	s.awaitClaim("app", "is bound", bound)
	patchVolume(map[string]any{"spec": map[string]any{"persistentVolumeReclaimPolicy": "Delete"}})
	s.run(idle("app", "app")).verify("/data/file", 1)
}
