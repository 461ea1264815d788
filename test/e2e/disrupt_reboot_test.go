package e2e

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/pkg/loop"
)

// TestEverythingComesBackAfterAReboot takes all processes of the node away at once,
// and then its mounts and loop devices. Pods that kubelet starts again find their
// data, and so does everybody who comes later. It is a reboot, not a power cut: the
// mounts are taken down in order, so what is dirty is written back.
func TestEverythingComesBackAfterAReboot(t *testing.T) {
	s := newScene(t)
	writers := s.writers()
	lasting := s.lasting("lasting-ext4", newClaim("lasting-ext4", classExt4, small))
	lasting = append(lasting, s.lasting("lasting-xfs", newClaim("lasting-xfs", classXFS, smallXFS))...)
	lasting = append(lasting, s.lasting("lasting-block", newBlockClaim("lasting-block", classExt4, small))...)
	lasting = append(lasting, s.lastingSet("set", 2)...)
	for i, p := range lasting {
		p.await("runs", running)
		p.write(p.where, 100+i)
	}
	writers[0].write("/data/file", 1)
	before := writers[0].goesOn(5)
	s.snapshot("instant", writers[0].claim, classSnapshot)
	after := writers[0].goesOn(5)
	durable := map[string]uint64{}
	for _, w := range writers {
		durable[w.name] = w.progress().Records
	}
	first := map[string]string{}
	for _, p := range lasting {
		first[p.name] = p.instance()
	}

	s.step("reboot")
	up := false
	s.afterwards(func(late *scene) {
		if !up { // whoever comes next needs a node
			late.must(late.cluster.Reboot(late.ctx))
		}
	})
	s.must(s.cluster.Reboot(s.ctx))
	up = true
	s.step("kubelet runs again")

	for i, p := range lasting {
		p.await("was started again", func(now *corev1.Pod) bool {
			return running(now) && instanceOf(now) != first[p.name]
		})
		p.verify(p.where, 100+i)
		p.write(p.where, 200+i)
	}
	s.step("all pods run again, with their data")
	for _, w := range writers {
		w.await("is known to have died", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
		w.pod.delete()
		w.found(durable[w.name])
	}
	s.claim(restoreOf("instant", newClaim("restored", classExt4, small)))
	s.isInstant(s.run(idle("restored", "restored")), before, after)
	for i, p := range lasting {
		p.verify(p.where, 200+i)
	}
	s.oneLoopEach()
}

// oneLoopEach demands that every volume that a running pod of the scene has is
// attached once, and no other more than that: two loop devices on one image would
// destroy it.
func (s *scene) oneLoopEach() {
	s.t.Helper()
	pods, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	used := map[string]bool{}
	for i := range pods.Items {
		for _, v := range pods.Items[i].Spec.Volumes {
			if v.PersistentVolumeClaim != nil && running(&pods.Items[i]) {
				used[v.PersistentVolumeClaim.ClaimName] = true
			}
		}
	}
	if len(used) == 0 {
		s.t.Fatal("no pod with a claim runs")
	}
	volumes, err := s.kube.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	loops, err := loop.List()
	s.must(err)
	for i := range volumes.Items {
		pv := &volumes.Items[i]
		if !ofNamespace(pv, s.ns) {
			continue
		}
		var found []int
		for _, l := range loops {
			if strings.Contains(l.BackingPath, "/"+pv.Spec.CSI.VolumeHandle+"/") {
				found = append(found, l.Index)
			}
		}
		if claim := pv.Spec.ClaimRef.Name; len(found) > 1 || used[claim] && len(found) != 1 {
			s.t.Errorf("the volume of claim %s is attached to the loop devices %v, used by a running pod: %t", claim, found, used[claim])
		}
	}
}

// lastingPod is started again by kubelet whenever it ends.
type lastingPod struct {
	*pod
	where string // a file or a device
}

// lasting makes a claim and a pod that does nothing, but for ever.
func (s *scene) lasting(name string, claim *corev1.PersistentVolumeClaim) []lastingPod {
	s.t.Helper()
	s.claim(claim)
	p, where := idle(name, claim.Name), "/data/file"
	if claim.Spec.VolumeMode != nil {
		p, where = idleOnDevice(name, claim.Name), dataDevice
	}
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return []lastingPod{{pod: s.create(p), where: where}}
}

// lastingSet makes a StatefulSet of such pods.
func (s *scene) lastingSet(name string, replicas int32) []lastingPod {
	s.t.Helper()
	labels := map[string]string{appLabel: name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("idle")}
	template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: dataDir}}
	_, err := s.kube.AppsV1().StatefulSets(s.ns).Create(s.ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas:             &replicas,
			PodManagementPolicy:  appsv1.ParallelPodManagement,
			Selector:             &metav1.LabelSelector{MatchLabels: labels},
			Template:             template,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{*newClaim("data", classExt4, small)},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	var members []lastingPod
	for i := range replicas {
		members = append(members, lastingPod{pod: &pod{s: s, name: fmt.Sprintf("%s-%d", name, i)}, where: "/data/file"})
	}
	return members
}

// instance is the running container of a pod; another one has another id.
func (p *pod) instance() string {
	p.s.t.Helper()
	return instanceOf(p.await("runs", running))
}

func instanceOf(p *corev1.Pod) string {
	if len(p.Status.ContainerStatuses) == 0 {
		return ""
	}
	return p.Status.ContainerStatuses[0].ContainerID
}
