package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWritersDoNotNoticeThatTheDriverIsReplaced takes the driver away in every way
// that there is, and kubelet too, while pods write to volumes of every kind.
func TestWritersDoNotNoticeThatTheDriverIsReplaced(t *testing.T) {
	s := newScene(t)
	// Built before anything is measured: it takes both cores.
	const newer = driverImage + ":v0.1.1-e2e"
	s.must(s.cluster.BuildDriverImage(s.ctx, newer))
	s.afterwards(func(late *scene) { late.must(late.cluster.RemoveImage(late.ctx, newer)) })
	s.keepDriver()
	writers := s.writers()
	starts := 0
	works := func() {
		t.Helper()
		starts++
		name := fmt.Sprintf("new-%d", starts)
		app := s.runClaim(newClaim(name, classExt4, small))
		app.write("/data/file", starts)
		app.verify("/data/file", starts)
	}

	s.undisturbed(writers, "the driver's pod is deleted", func() {
		old := s.driverPod()
		s.must(s.kube.CoreV1().Pods(driverNamespace).Delete(s.ctx, old.Name, metav1.DeleteOptions{}))
		s.awaitDriverBut(old.UID)
		works()
	})
	s.undisturbed(writers, "the driver is killed", func() {
		old := s.driverPod()
		s.signal(old, syscall.SIGKILL)
		await(s, aWhile, one(s.kube.CoreV1().Pods(driverNamespace), old.Name), "has its driver started again", func(p *corev1.Pod) bool {
			return restarts(p)[driverContainer] > restarts(old)[driverContainer] && running(p)
		})
		works()
	})
	s.undisturbed(writers, "the driver's image is updated", func() {
		now := s.changeDriver(func(spec *corev1.PodSpec) {
			for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
				for i := range list {
					if strings.HasPrefix(list[i].Image, driverImage+":") {
						list[i].Image = newer
					}
				}
			}
		})
		if text := s.nodeLog(now, driverContainer); !strings.Contains(text, "version=v0.1.1-e2e") {
			t.Errorf("the driver does not say that it is the new one:\n%s", text)
		}
		works()
	})
	s.undisturbed(writers, "kubelet is restarted", func() {
		s.must(s.cluster.StopKubelet(s.ctx))
		s.must(s.cluster.StartKubelet(s.ctx))
		works()
	})
	for _, w := range writers {
		w.finish()
	}
}
