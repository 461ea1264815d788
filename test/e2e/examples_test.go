package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTheExamplesRun applies what deploy/examples has, with an image that is here
// instead of the published one, and waits until every pod of it runs. It is not
// parallel: together they take half of a small pool.
func TestTheExamplesRun(t *testing.T) {
	s := newScene(t)
	const first = "deployment.yaml" // the copies need its claim, and what its pod wrote
	pods := s.applyExample(first)
	s.runAll(pods)
	for _, path := range found(s, "deploy/examples/*.yaml") {
		if name := filepath.Base(path); name != first {
			pods += s.applyExample(name)
		}
	}
	s.runAll(pods)
}

var (
	publishedImage = regexp.MustCompile(`image: docker\.io/library/busybox:\S+`)
	replicas       = regexp.MustCompile(`(?m)^  replicas: 2$`)
)

// applyExample returns how many pods the example has.
func (s *scene) applyExample(name string) int {
	s.t.Helper()
	text := s.read("deploy/examples/" + name)
	pods := len(publishedImage.FindAllString(text, -1)) + len(replicas.FindAllString(text, -1))
	if pods == 0 {
		s.t.Fatalf("%s has no pod with %s", name, publishedImage)
	}
	path := filepath.Join(s.t.TempDir(), name)
	s.must(os.WriteFile(path, publishedImage.ReplaceAll([]byte(text), []byte("image: holdfast.test/busybox:1")), 0o600))
	out, err := s.cluster.Kubectl(s.ctx, "apply", "-n", s.ns, "-f", path)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return pods
}

// runAll waits until this many pods of the scene run, and demands that none was
// restarted on the way.
func (s *scene) runAll(n int) {
	s.t.Helper()
	up := map[string]bool{}
	await(s, aWhile, all(s.kube.CoreV1().Pods(s.ns), "pods of "+s.ns), "has enough that run", func(p *corev1.Pod) bool {
		up[p.Name] = running(p)
		count := 0
		for _, is := range up {
			if is {
				count++
			}
		}
		return count == n
	})
	pods, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			if c.RestartCount > 0 {
				s.t.Errorf("pod %s was restarted %d times", p.Name, c.RestartCount)
			}
		}
	}
}
