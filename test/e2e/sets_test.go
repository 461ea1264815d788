package e2e

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestADeploymentComesBackToItsData(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.claim(newClaim("app", classExt4, small))
	one, labels := int32(1), map[string]string{appLabel: "app"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("journal", dataDir)}
	template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	mountClaim(&template.Spec, "app", dataDir)
	_, err := s.kube.AppsV1().Deployments(s.ns).Create(s.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: template,
		},
	}, metav1.CreateOptions{})
	s.must(err)

	before := s.newPodBut("")
	before.write("/data/file", 3)
	written := before.progress()
	s.step("delete pod %s, which wrote %d records", before.name, written.Records)
	before.delete()
	after := s.newPodBut(before.name)
	after.verify("/data/file", 3)
	if n := after.journals(dataDir)["journal-1"]; n < written.Records {
		t.Errorf("the deleted pod had %d records on disk, the next one finds %d", written.Records, n)
	}
}

// newPodBut waits for a running pod of the scene that does not have this name.
func (s *scene) newPodBut(name string) *pod {
	s.t.Helper()
	p := await(s, aWhile, all(s.kube.CoreV1().Pods(s.ns), "pods of "+s.ns), "has a new one that runs", func(p *corev1.Pod) bool {
		return p.Name != name && running(p)
	})
	return &pod{s: s, name: p.Name}
}

func TestAStatefulSetKeepsItsDataWhenScaled(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	labels := map[string]string{appLabel: "app"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("idle")}
	template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: dataDir}}
	replicas := int32(1)
	_, err := s.kube.AppsV1().StatefulSets(s.ns).Create(s.ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec: appsv1.StatefulSetSpec{
			Replicas:             &replicas,
			PodManagementPolicy:  appsv1.ParallelPodManagement,
			Selector:             &metav1.LabelSelector{MatchLabels: labels},
			Template:             template,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{*newClaim("data", classExt4, small)},
		},
	}, metav1.CreateOptions{})
	s.must(err)

	member := func(i int) *pod {
		p := &pod{s: s, name: fmt.Sprintf("app-%d", i)}
		p.await("runs", running)
		return p
	}
	member(0).write("/data/file", 100)
	s.scale("app", 3)
	for i := 1; i < 3; i++ {
		member(i).write("/data/file", 100+i)
	}
	s.scale("app", 1)
	for i := 1; i < 3; i++ {
		s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().Pods(s.ns), fmt.Sprintf("app-%d", i)), &corev1.Pod{}))
	}
	member(0).verify("/data/file", 100)
	s.scale("app", 3)
	for i := range 3 {
		member(i).verify("/data/file", 100+i)
	}
}

func (s *scene) scale(set string, replicas int) {
	s.t.Helper()
	s.step("scale %s to %d", set, replicas)
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	_, err := s.kube.AppsV1().StatefulSets(s.ns).Patch(s.ctx, set, types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}
