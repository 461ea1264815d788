package e2e

import (
	"context"
	"errors"
	"fmt"
	"time"

	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// remove takes away all that is in the namespace, waits until Kubernetes and the
// node have nothing of it left, and then removes the namespace.
func (s *scene) remove(ctx context.Context) error {
	everything := metav1.ListOptions{}
	err := errors.Join(
		s.kube.AppsV1().Deployments(s.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, everything),
		s.kube.AppsV1().StatefulSets(s.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, everything),
		s.kube.CoreV1().Pods(s.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, everything),
		s.snap.SnapshotV1().VolumeSnapshots(s.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, everything),
		s.kube.CoreV1().PersistentVolumeClaims(s.ns).DeleteCollection(ctx, metav1.DeleteOptions{}, everything),
		s.release(ctx),
		s.kube.CoreV1().Namespaces().Delete(ctx, s.ns, metav1.DeleteOptions{}),
		gone(ctx, aWhile, one(s.kube.CoreV1().Namespaces(), s.ns), &corev1.Namespace{}),
	)
	err = errors.Join(err,
		noneOf(ctx, all(s.kube.CoreV1().PersistentVolumes(), "volumes of "+s.ns), func(pv *corev1.PersistentVolume) bool {
			return ofNamespace(pv, s.ns)
		}),
		noneOf(ctx, all(s.snap.SnapshotV1().VolumeSnapshotContents(), "snapshot contents of "+s.ns), func(c *snapv1.VolumeSnapshotContent) bool {
			return c.Spec.VolumeSnapshotRef.Namespace == s.ns
		}),
	)
	volumes, snapshots := s.trail.stop()
	return errors.Join(err, waitNothingLeft(ctx, volumes, snapshots), s.removeClasses(ctx))
}

// release lets what is retained be deleted with the object that it belongs to.
func (s *scene) release(ctx context.Context) error {
	volumes, err := s.kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range volumes.Items {
		pv := &volumes.Items[i]
		if !ofNamespace(pv, s.ns) || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
			continue
		}
		patch := []byte(`{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`)
		if _, err := s.kube.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) { // on its way out already
			return err
		}
	}
	contents, err := s.snap.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range contents.Items {
		c := &contents.Items[i]
		if c.Spec.VolumeSnapshotRef.Namespace != s.ns || c.Spec.DeletionPolicy != snapv1.VolumeSnapshotContentRetain {
			continue
		}
		patch := []byte(`{"spec":{"deletionPolicy":"Delete"}}`)
		if _, err := s.snap.SnapshotV1().VolumeSnapshotContents().Patch(ctx, c.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) { // on its way out already
			return err
		}
	}
	return nil
}

// removeClasses removes what tests make beside their namespace, which they label
// with its name.
func (s *scene) removeClasses(ctx context.Context) error {
	mine := metav1.ListOptions{LabelSelector: sceneLabel + "=" + s.ns}
	return errors.Join(
		s.kube.StorageV1().StorageClasses().DeleteCollection(ctx, metav1.DeleteOptions{}, mine),
		s.snap.SnapshotV1().VolumeSnapshotClasses().DeleteCollection(ctx, metav1.DeleteOptions{}, mine),
	)
}

// sceneLabel marks what belongs to a scene and has no namespace.
const sceneLabel = "e2e.holdfast.test/scene"

// noneOf waits until no object matches, by looking again and again: a watch of
// all objects does not say when the last of some has gone.
func noneOf[T runtime.Object](ctx context.Context, w watched, match func(T) bool) error {
	ctx, cancel := context.WithTimeout(ctx, aWhile)
	defer cancel()
	for {
		left, err := first(ctx, w, match)
		if err != nil || isNil(left) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: one is left after %s:\n%s", w.what, aWhile, asYAML(left))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
