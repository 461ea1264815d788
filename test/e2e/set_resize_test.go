package e2e

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestAStatefulSetGrowsClaimByClaim grows the claim of each member, one after the
// other, while all of them write, and then gives the set the new size for members to
// come. Kubernetes lets nobody edit the claims of a StatefulSet, so the set is made
// anew around its pods, which do not notice.
func TestAStatefulSetGrowsClaimByClaim(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	const grown = "512Mi"
	sets := s.kube.AppsV1().StatefulSets(s.ns)
	set := journalingSet("app", 3, smallXFS)
	_, err := sets.Create(s.ctx, set, metav1.CreateOptions{})
	s.must(err)
	uids := map[string]types.UID{}
	var members []*pod
	for i := range 3 {
		p := &pod{s: s, name: fmt.Sprintf("app-%d", i)}
		uids[p.name] = p.await("runs", running).UID
		p.goesOn(3)
		members = append(members, p)
	}
	for _, p := range members {
		s.edit("data-"+p.name, grown)
		p.claimGrowsTo("data-"+p.name, grown)
		s.hasRoom(p, grown)
		for _, other := range members {
			other.goesOn(3)
		}
	}

	s.step("make the set anew, for larger claims")
	orphan := metav1.DeletePropagationOrphan
	s.must(sets.Delete(s.ctx, "app", metav1.DeleteOptions{PropagationPolicy: &orphan}))
	s.must(gone(s.ctx, aWhile, one(sets, "app"), &appsv1.StatefulSet{}))
	_, err = sets.Create(s.ctx, journalingSet("app", 4, grown), metav1.CreateOptions{})
	s.must(err)
	last := &pod{s: s, name: "app-3"}
	last.await("runs", running)
	s.hasRoom(last, grown)
	for _, p := range members {
		if now := p.await("runs", running); now.UID != uids[p.name] {
			t.Errorf("pod %s was replaced", p.name)
		}
		p.goesOn(3)
	}
}

// journalingSet is a StatefulSet of pods that write journals, each on an xfs.
func journalingSet(name string, replicas int32, size string) *appsv1.StatefulSet {
	labels := map[string]string{appLabel: name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("journal", dataDir)}
	template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: dataDir}}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas:             &replicas,
			PodManagementPolicy:  appsv1.ParallelPodManagement,
			Selector:             &metav1.LabelSelector{MatchLabels: labels},
			Template:             template,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{*newClaim("data", classXFS, size)},
		},
	}
}
