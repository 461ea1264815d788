package e2e

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// driverLike makes a pod of the driver's namespace and account from what the
// driver's own pod is made from, changed, and removes it at the end. It is no pod
// of the DaemonSet.
func (s *scene) driverLike(name string, change func(*corev1.PodSpec)) *pod {
	s.t.Helper()
	spec := s.driverTemplate().Spec
	spec.RestartPolicy = corev1.RestartPolicyNever
	change(&spec)
	here := s.system()
	pods := here.kube.CoreV1().Pods(driverNamespace)
	made, err := pods.Create(s.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-" + name + "-"},
		Spec:       spec,
	}, metav1.CreateOptions{})
	s.must(err)
	s.afterwards(func(late *scene) {
		now := int64(0)
		late.must(pods.Delete(late.ctx, made.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
		late.must(gone(late.ctx, aWhile, one(pods, made.Name), &corev1.Pod{}))
	})
	return &pod{s: here, name: made.Name}
}

// TestASecondNodeIsRefusedClearly runs the init container of the driver's pod as
// it would run on another node.
func TestASecondNodeIsRefusedClearly(t *testing.T) {
	s := newScene(t)
	p := s.driverLike("second-node", func(spec *corev1.PodSpec) {
		spec.Containers, spec.InitContainers = []corev1.Container{*container(spec, claimContainer)}, nil
		args := spec.Containers[0].Args
		for i, a := range args {
			if strings.HasPrefix(a, "--node-id=") {
				args[i] = "--node-id=another-node"
			}
		}
	})
	ended := p.await("has ended", func(o *corev1.Pod) bool {
		return o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed
	})
	end := ended.Status.ContainerStatuses[0].State.Terminated
	const refusal = `node another-node: .*node holdfast-node has it, and this version of Holdfast serves one node.*` +
		`kubectl -n holdfast-system delete lease holdfast-single-node`
	if end.ExitCode == 0 || !regexp.MustCompile(refusal).MatchString(end.Message) {
		t.Errorf("it ended with status %d and says %q, want another status and %s", end.ExitCode, end.Message, refusal)
	}
	event := p.s.awaitEvent(p.name, "NodeRefused", refusal)
	t.Logf("the event: %s", event.Message)
	lease, err := s.kube.CoordinationV1().Leases(driverNamespace).Get(s.ctx, "holdfast-single-node", metav1.GetOptions{})
	s.must(err)
	if holder := lease.Spec.HolderIdentity; holder == nil || *holder != "holdfast-node" {
		t.Errorf("the claim is not held by the first node any more:\n%s", asYAML(lease))
	}
}

// TestADriverWhoseMountsNobodySeesServesNothing runs the driver as a DaemonSet
// without mountPropagation would, on directories of its own.
func TestADriverWhoseMountsNobodySeesServesNothing(t *testing.T) {
	s := newScene(t)
	own := t.TempDir()
	p := s.driverLike("not-shared", func(spec *corev1.PodSpec) {
		driver := *container(spec, driverContainer)
		spec.Containers, spec.InitContainers = []corev1.Container{driver}, nil
		for i := range driver.VolumeMounts {
			driver.VolumeMounts[i].MountPropagation = nil
		}
		create := corev1.HostPathDirectoryOrCreate
		for i, v := range spec.Volumes {
			if v.HostPath != nil && v.Name != "dev" {
				spec.Volumes[i].HostPath = &corev1.HostPathVolumeSource{Path: filepath.Join(own, v.Name), Type: &create}
			}
		}
		for i, a := range driver.Args {
			if strings.HasPrefix(a, "--endpoint=") {
				driver.Args[i] = "--endpoint=unix:///var/lib/kubelet/csi.sock"
			}
		}
	})
	const complaint = `the mount at /var/lib/kubelet is [a-z ]+, so the host.* mountPath: /var/lib/kubelet mountPropagation: Bidirectional.*`
	event := p.s.awaitEvent(p.name, "MountNotShared", `(?s)`+complaint+`mountPath: /var/lib/holdfast/pools mountPropagation: Bidirectional`)
	t.Logf("the event: %s", event.Message)

	// It stays up and never gets ready, for longer than a start takes and several
	// of its probes.
	ctx, cancel := context.WithTimeout(s.ctx, 12*time.Second)
	defer cancel()
	pods := s.kube.CoreV1().Pods(driverNamespace)
	last, err := watchUntil(ctx, aWhile, one(pods, p.name), func(o *corev1.Pod) bool { return running(o) || o.Status.Phase == corev1.PodFailed })
	if err == nil || ctx.Err() == nil {
		t.Fatalf("a driver whose mounts nobody sees got ready, or ended (%v):\n%s", err, asYAML(last))
	}
	status := last.Status.ContainerStatuses[0]
	if status.State.Running == nil || status.Ready || status.RestartCount != 0 {
		t.Errorf("it is not just running and not ready:\n%s", asYAML(last))
	}
	if text := p.log(); !strings.Contains(text, "reason=MountNotShared") {
		t.Errorf("its log does not say why it serves nothing:\n%s", text)
	}
}
