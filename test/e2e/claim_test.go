package e2e

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The classes of deploy.
const (
	classExt4     = "holdfast"
	classXFS      = "holdfast-xfs"
	classRetain   = "holdfast-retain"
	classSnapshot = "holdfast"
)

// Sizes that leave room for many tests in one small pool. smallXFS is a little
// more than mkfs.xfs demands.
const (
	small    = "128Mi"
	smallXFS = "320Mi"
)

// smallOf is the small size for a class.
func smallOf(class string) string {
	if class == classXFS {
		return smallXFS
	}
	return small
}

// newClaim is a claim of one writer, to be changed before it is made.
func newClaim(name, class, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:        storage(size),
		},
	}
}

// newBlockClaim is a claim for a raw block device.
func newBlockClaim(name, class, size string) *corev1.PersistentVolumeClaim {
	claim := newClaim(name, class, size)
	mode := corev1.PersistentVolumeBlock
	claim.Spec.VolumeMode = &mode
	return claim
}

// copyOf makes claim a copy of another claim.
func copyOf(source string, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	claim.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: source}
	return claim
}

// restoreOf makes claim a copy of a snapshot.
func restoreOf(snapshot string, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	group := "snapshot.storage.k8s.io"
	claim.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: snapshot}
	return claim
}

func storage(size string) corev1.VolumeResourceRequirements {
	return corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}
}

// claim makes a claim. It does not wait: most are bound when a pod needs them.
func (s *scene) claim(c *corev1.PersistentVolumeClaim) {
	s.t.Helper()
	_, err := s.kube.CoreV1().PersistentVolumeClaims(s.ns).Create(s.ctx, c, metav1.CreateOptions{})
	s.must(err)
}

// awaitClaim waits for a state of a claim; state completes "until it ...".
func (s *scene) awaitClaim(name, state string, ok func(*corev1.PersistentVolumeClaim) bool) *corev1.PersistentVolumeClaim {
	s.t.Helper()
	return await(s, aWhile, one(s.kube.CoreV1().PersistentVolumeClaims(s.ns), name), state, ok)
}

func bound(c *corev1.PersistentVolumeClaim) bool { return c.Status.Phase == corev1.ClaimBound }

// volumeOf is the volume of a claim, once it has one.
func (s *scene) volumeOf(claim string) *corev1.PersistentVolume {
	s.t.Helper()
	c := s.awaitClaim(claim, "is bound", bound)
	pv, err := s.kube.CoreV1().PersistentVolumes().Get(s.ctx, c.Spec.VolumeName, metav1.GetOptions{})
	s.must(err)
	return pv
}

// edit changes the size that a claim asks for, as kubectl edit does.
func (s *scene) edit(claim, size string) {
	s.t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"resources": storage(size)}})
	s.must(err)
	_, err = s.kube.CoreV1().PersistentVolumeClaims(s.ns).Patch(s.ctx, claim, types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}

// hasSize reports whether a claim has at least this capacity.
func hasSize(size string) func(*corev1.PersistentVolumeClaim) bool {
	want := resource.MustParse(size)
	return func(c *corev1.PersistentVolumeClaim) bool {
		have := c.Status.Capacity[corev1.ResourceStorage]
		return have.Cmp(want) >= 0
	}
}

// deleteClaim deletes a claim and waits until its volume is gone too.
func (s *scene) deleteClaim(name string) {
	s.t.Helper()
	pv := s.volumeOf(name)
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).Delete(s.ctx, name, metav1.DeleteOptions{}))
	s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().PersistentVolumeClaims(s.ns), name), &corev1.PersistentVolumeClaim{}))
	s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().PersistentVolumes(), pv.Name), &corev1.PersistentVolume{}))
}

// class makes a StorageClass of the scene, from one of deploy and what change
// does to it, and returns its name.
func (s *scene) class(from, suffix string, change func(*storagev1.StorageClass)) string {
	s.t.Helper()
	class, err := s.kube.StorageV1().StorageClasses().Get(s.ctx, from, metav1.GetOptions{})
	s.must(err)
	class.ObjectMeta = metav1.ObjectMeta{Name: s.ns + "-" + suffix, Labels: map[string]string{sceneLabel: s.ns}}
	change(class)
	_, err = s.kube.StorageV1().StorageClasses().Create(s.ctx, class, metav1.CreateOptions{})
	s.must(err)
	return class.Name
}

// immediate is the class, but bound without a pod.
func (s *scene) immediate(from string) string {
	s.t.Helper()
	return s.class(from, from+"-immediate", func(c *storagev1.StorageClass) {
		mode := storagev1.VolumeBindingImmediate
		c.VolumeBindingMode = &mode
	})
}
