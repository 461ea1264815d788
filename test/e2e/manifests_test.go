package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree is the top of the repository.
const tree = "../.."

// TestManifestsAreAcceptedStrictly has the API server check everything that is
// shipped, unknown and doubled fields included, without changing anything.
func TestManifestsAreAcceptedStrictly(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	check := []string{"apply", "--server-side", "--force-conflicts", "--field-manager=e2e", "--dry-run=server", "--validate=strict"}
	rendered := 0
	for _, path := range found(s, "deploy/kustomize/base/kustomization.yaml", "deploy/kustomize/overlays/*/kustomization.yaml") {
		dir := filepath.Dir(path)
		out, err := s.cluster.Kubectl(s.ctx, append(check, "-k", dir)...)
		if err != nil {
			t.Errorf("%s: %v\n%s", dir, err, out)
		}
		rendered += strings.Count(out, "(server dry run)")
	}
	rendered += s.chartIsAccepted(check)
	for _, path := range found(s, "deploy/examples/*.yaml") {
		out, err := s.cluster.Kubectl(s.ctx, append(check, "-n", s.ns, "-f", path)...)
		if err != nil {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
		rendered += strings.Count(out, "(server dry run)")
	}
	t.Logf("the API server accepted %d objects", rendered)
	if !t.Failed() && rendered < 50 {
		t.Errorf("only %d objects were checked", rendered)
	}
}

// found are the files of the repository that match, by absolute path. That none
// does ends the test.
func found(s *scene, patterns ...string) []string {
	s.t.Helper()
	top, err := filepath.Abs(tree)
	s.must(err)
	var all []string
	for _, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(top, pattern))
		s.must(err)
		if len(paths) == 0 {
			s.t.Fatalf("there is nothing that matches %s", pattern)
		}
		all = append(all, paths...)
	}
	return all
}

func (s *scene) read(path string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(tree, path))
	s.must(err)
	return string(text)
}
