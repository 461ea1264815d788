package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// example decodes one object of a file of deploy/examples, the n-th.
func example[T any](s *scene, path string, n int) *T {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(tree, "deploy/examples", path))
	s.must(err)
	var out T
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for range n + 1 {
		out = *new(T)
		s.must(decoder.Decode(&out))
	}
	return &out
}

// runJob makes a Job of the scene, waits until it has ended well, and returns what
// it wrote.
func (s *scene) runJob(job *batchv1.Job) string {
	s.t.Helper()
	job.Namespace = s.ns
	if _, err := s.kube.BatchV1().Jobs(s.ns).Create(s.ctx, job, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	ended := await(s, aWhile, one(s.kube.BatchV1().Jobs(s.ns), job.Name), "has ended", func(j *batchv1.Job) bool {
		return j.Status.Succeeded+j.Status.Failed > 0
	})
	pods, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
	s.must(err)
	var out strings.Builder
	for _, p := range pods.Items {
		text, err := s.kube.CoreV1().Pods(s.ns).GetLogs(p.Name, &corev1.PodLogOptions{}).DoRaw(s.ctx)
		s.must(err)
		out.Write(text)
	}
	if ended.Status.Succeeded == 0 {
		s.t.Fatalf("job %s failed:\n%s", job.Name, out.String())
	}
	return out.String()
}

// applyPrinted applies what a program printed for kubectl apply.
func (s *scene) applyPrinted(manifest string) {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "manifest.yaml")
	s.must(os.WriteFile(path, []byte(manifest), 0o600))
	if out, err := s.cluster.Kubectl(s.ctx, "apply", "--validate=strict", "-f", path); err != nil {
		s.t.Fatalf("apply: %v\n%s\n%s", err, out, manifest)
	}
}
