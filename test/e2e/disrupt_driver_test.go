package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

const (
	driverSet         = "holdfast" // the DaemonSet
	driverContainer   = "driver"
	claimContainer    = "claim-node"
	watchdogContainer = "freeze-watchdog"
	driverImage       = "ghcr.io/holdfast-csi/holdfast"
)

// system is the scene in the driver's namespace, to look at what is there. Nobody
// ends it.
func (s *scene) system() *scene {
	here := *s
	here.ns = driverNamespace
	return &here
}

// afterwards has something done at the end of the test, however it ends: before
// the scene ends if it is called later than newScene, else after that.
func (s *scene) afterwards(do func(*scene)) {
	s.t.Helper()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*aWhile)
		defer cancel()
		late := *s
		late.ctx = ctx
		if s.t.Failed() { // what is done may take away the pod whose log says why
			late.show(ctx)
		}
		do(&late)
	})
}

// driverTemplate is what the driver's pod is made from now.
func (s *scene) driverTemplate() corev1.PodTemplateSpec {
	s.t.Helper()
	set, err := s.kube.AppsV1().DaemonSets(driverNamespace).Get(s.ctx, driverSet, metav1.GetOptions{})
	s.must(err)
	return set.Spec.Template
}

// setDriver makes the driver's pod from this from now on. It waits for nothing.
func (s *scene) setDriver(template corev1.PodTemplateSpec) {
	s.t.Helper()
	sets := s.kube.AppsV1().DaemonSets(driverNamespace)
	s.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		set, err := sets.Get(s.ctx, driverSet, metav1.GetOptions{})
		if err != nil {
			return err
		}
		set.Spec.Template = template
		_, err = sets.Update(s.ctx, set, metav1.UpdateOptions{})
		return err
	}))
}

// keepDriver has the driver's pod put back at the end to what it is now.
func (s *scene) keepDriver() {
	s.t.Helper()
	original := s.driverTemplate()
	s.afterwards(func(late *scene) {
		late.setDriver(original)
		late.awaitRollout()
	})
}

// changeDriver changes what the driver's pod is made from, and waits until a pod
// that is made from it is ready. Whoever calls it has called keepDriver.
func (s *scene) changeDriver(change func(*corev1.PodSpec)) *corev1.Pod {
	s.t.Helper()
	template := s.driverTemplate()
	change(&template.Spec)
	s.setDriver(template)
	return s.awaitRollout()
}

// awaitRollout waits until the driver's pod is ready and made from the template.
func (s *scene) awaitRollout() *corev1.Pod {
	s.t.Helper()
	await(s, aWhile, one(s.kube.AppsV1().DaemonSets(driverNamespace), driverSet), "has its pod ready and up to date", func(d *appsv1.DaemonSet) bool {
		return d.Status.ObservedGeneration >= d.Generation && d.Status.DesiredNumberScheduled == 1 &&
			d.Status.UpdatedNumberScheduled == 1 && d.Status.NumberReady == 1
	})
	return s.driverPod()
}

// withoutDriver has no driver run while something is done to the node, and then
// has one run again that is made from template.
func (s *scene) withoutDriver(template corev1.PodTemplateSpec, do func()) *corev1.Pod {
	s.t.Helper()
	nowhere := s.driverTemplate()
	nowhere.Spec.NodeSelector = map[string]string{"e2e.holdfast.test/nowhere": "yes"}
	s.setDriver(nowhere)
	pods := all(s.kube.CoreV1().Pods(driverNamespace), "pods of the driver")
	s.must(noneOf(s.ctx, pods, func(p *corev1.Pod) bool { return p.Labels["app.kubernetes.io/name"] == "holdfast" }))
	do()
	s.setDriver(template)
	return s.awaitRollout()
}

// awaitDriverBut waits until there is a driver's pod that runs and is not this one.
func (s *scene) awaitDriverBut(old types.UID) *corev1.Pod {
	s.t.Helper()
	return await(s, aWhile, all(s.kube.CoreV1().Pods(driverNamespace), "pods of the driver"), "has a new one that is ready", func(p *corev1.Pod) bool {
		return p.Labels["app.kubernetes.io/name"] == "holdfast" && p.UID != old && p.DeletionTimestamp == nil && running(p)
	})
}

// container is a container of the spec, to be read or changed; an empty one if
// there is none of this name.
func container(spec *corev1.PodSpec, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return &corev1.Container{}
}

// restarts is how often each container of a pod was started again.
func restarts(p *corev1.Pod) map[string]int32 {
	found := map[string]int32{}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		found[c.Name] = c.RestartCount
	}
	return found
}

// signal sends a signal to the driver as the kernel of the node would: from
// outside its container.
func (s *scene) signal(pod *corev1.Pod, sig syscall.Signal) {
	s.t.Helper()
	pid, err := s.cluster.ContainerPID(s.ctx, driverNamespace, pod.Name, driverContainer)
	s.must(err)
	s.must(syscall.Kill(pid, sig))
}

// nodeLog is what a container of the driver's pod has written, read on the node:
// that needs no kubelet.
func (s *scene) nodeLog(pod *corev1.Pod, container string) string {
	s.t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/var/log/containers/%s_%s_%s-*.log", pod.Name, driverNamespace, container))
	s.must(err)
	text := ""
	for _, path := range paths {
		data, err := os.ReadFile(path)
		s.must(err)
		text += string(data)
	}
	return text
}

// until asks again and again, often, until the answer is yes.
func (s *scene) until(patience time.Duration, what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited %s until %s", patience, what)
		}
	}
}
