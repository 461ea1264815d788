package e2e

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fifty pods with identity volumes start, see a change, and go without a trace. Half of
// them end as soon as they have seen it; the others read on until they are deleted.
func (i *identityScene) fifty(t *testing.T) {
	const many, patience = 50, 6 * time.Minute
	s := newScene(t)
	i.vault.grant(s, canRead(s))
	i.vault.put(s, "first")
	begin := time.Now()
	for n := range many {
		name := fmt.Sprintf("pod-%02d", n)
		if n%2 == 0 {
			s.create(s.withCredentials(name, ask{source: "asking"}, "await", credentialsDir+"/password", "second"))
		} else {
			s.create(s.watching(name, ask{source: "asking"}))
		}
	}
	pods := s.awaitAll(patience, many, "run", running)
	s.step("%d pods run after %s", many, time.Since(begin).Round(time.Second))
	// Most calls of kubelet's so soon after the start are over, and the next come at
	// its own pace.
	time.Sleep(busy)

	begin = time.Now()
	i.vault.put(s, "second")
	s.awaitAll(period+busy, many/2, "have ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	var uids []types.UID
	for n := range pods {
		uids = append(uids, pods[n].UID)
		if pods[n].Spec.Containers[0].Command[1] == "watch" {
			p := &pod{s: s, name: pods[n].Name}
			p.awaitPassword("second", max(time.Second, time.Until(begin.Add(period+busy))))
			p.sees("first", "second")
		}
	}
	s.step("all have seen a change after %s", time.Since(begin).Round(time.Second))

	begin = time.Now()
	s.must(s.kube.CoreV1().Pods(s.ns).DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	s.awaitAll(patience, 0, "are left", func(*corev1.Pod) bool { return true })
	s.must(noCredentials(s.ctx, uids))
	s.step("all are gone after %s, and no tmpfs is left", time.Since(begin).Round(time.Second))
}

// awaitAll waits until ok says so of as many pods of the scene.
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
		if good == many {
			return list.Items
		}
		if time.Now().After(end) {
			s.t.Fatalf("of %d pods %d %s after %s, want %d", len(list.Items), good, state, most, many)
		}
	}
}
