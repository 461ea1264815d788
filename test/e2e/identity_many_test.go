package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fifty pods with identity volumes start, see a change, and go without a trace.
func (i *identityScene) fifty(t *testing.T) {
	const many, patience = 50, 6 * time.Minute
	s := newScene(t)
	i.vault.grant(s, canRead(s))
	i.vault.put(s, "first")
	begin := time.Now()
	for n := range many {
		s.create(s.withCredentials(fmt.Sprintf("pod-%02d", n), ask{source: "asking"}, "await", credentialsDir+"/password", "second"))
	}
	pods := s.awaitAll(patience, many, "run", running)
	s.step("%d pods run after %s", many, time.Since(begin).Round(time.Second))
	var uids []types.UID
	for _, p := range pods {
		uids = append(uids, p.UID)
	}

	begin = time.Now()
	i.vault.put(s, "second")
	// Each ends when it has seen it.
	for _, p := range s.awaitAll(patience, many, "have ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }) {
		if late := p.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Sub(begin); late > period+busy {
			t.Errorf("pod %s saw the change after %s", p.Name, late)
		}
	}
	s.step("all have seen a change after %s", time.Since(begin).Round(time.Second))

	begin = time.Now()
	s.must(s.kube.CoreV1().Pods(s.ns).DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	s.awaitAll(patience, 0, "are gone", func(*corev1.Pod) bool { return true })
	s.must(noCredentials(s.ctx, uids))
	s.step("all are gone after %s, and no tmpfs is left", time.Since(begin).Round(time.Second))
}

// awaitAll waits until there are so many pods in the scene and ok says so of each.
func (s *scene) awaitAll(most time.Duration, many int, state string, ok func(*corev1.Pod) bool) []corev1.Pod {
	s.t.Helper()
	for end := time.Now().Add(most); ; time.Sleep(time.Second) {
		list, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{})
		s.must(err)
		good := 0
		for n := range list.Items {
			if ok(&list.Items[n]) {
				good++
			}
			if list.Items[n].Status.Phase == corev1.PodFailed {
				s.t.Fatalf("pod %s has failed:\n%s", list.Items[n].Name, (&pod{s: s, name: list.Items[n].Name}).log())
			}
		}
		if len(list.Items) == many && good == many {
			return list.Items
		}
		if time.Now().After(end) {
			s.t.Fatalf("of %d pods %d %s after %s, want %d", len(list.Items), good, state, most, many)
		}
	}
}
