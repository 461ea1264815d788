package e2e

import (
	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// snapshot takes a snapshot of a claim and waits until it can be used.
func (s *scene) snapshot(name, claim, class string) {
	s.t.Helper()
	s.createSnapshot(name, class, snapv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim})
}

func (s *scene) createSnapshot(name, class string, source snapv1.VolumeSnapshotSource) *snapv1.VolumeSnapshot {
	s.t.Helper()
	spec := snapv1.VolumeSnapshotSpec{Source: source}
	if class != "" {
		spec.VolumeSnapshotClassName = &class
	}
	_, err := s.snap.SnapshotV1().VolumeSnapshots(s.ns).Create(s.ctx, &snapv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       spec,
	}, metav1.CreateOptions{})
	s.must(err)
	return await(s, aWhile, one(s.snap.SnapshotV1().VolumeSnapshots(s.ns), name), "is ready to use", func(v *snapv1.VolumeSnapshot) bool {
		return v.Status != nil && v.Status.ReadyToUse != nil && *v.Status.ReadyToUse
	})
}

// contentOf is what a snapshot is bound to.
func (s *scene) contentOf(snapshot string) *snapv1.VolumeSnapshotContent {
	s.t.Helper()
	v := await(s, aWhile, one(s.snap.SnapshotV1().VolumeSnapshots(s.ns), snapshot), "is bound", func(v *snapv1.VolumeSnapshot) bool {
		return v.Status != nil && v.Status.BoundVolumeSnapshotContentName != nil
	})
	content, err := s.snap.SnapshotV1().VolumeSnapshotContents().Get(s.ctx, *v.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
	s.must(err)
	return content
}

// deleteSnapshot deletes a snapshot and waits until it and its content are gone.
func (s *scene) deleteSnapshot(name string) {
	s.t.Helper()
	content := s.contentOf(name)
	s.must(s.snap.SnapshotV1().VolumeSnapshots(s.ns).Delete(s.ctx, name, metav1.DeleteOptions{}))
	s.must(gone(s.ctx, aWhile, one(s.snap.SnapshotV1().VolumeSnapshots(s.ns), name), &snapv1.VolumeSnapshot{}))
	s.must(gone(s.ctx, aWhile, one(s.snap.SnapshotV1().VolumeSnapshotContents(), content.Name), &snapv1.VolumeSnapshotContent{}))
}

// retainingClass makes a VolumeSnapshotClass of the scene that keeps contents, and
// returns its name.
func (s *scene) retainingClass() string {
	s.t.Helper()
	class, err := s.snap.SnapshotV1().VolumeSnapshotClasses().Get(s.ctx, classSnapshot, metav1.GetOptions{})
	s.must(err)
	class.ObjectMeta = metav1.ObjectMeta{Name: s.ns + "-retain", Labels: map[string]string{sceneLabel: s.ns}}
	class.DeletionPolicy = snapv1.VolumeSnapshotContentRetain
	_, err = s.snap.SnapshotV1().VolumeSnapshotClasses().Create(s.ctx, class, metav1.CreateOptions{})
	s.must(err)
	return class.Name
}
