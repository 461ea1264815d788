package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

const quickstartMark = "<!-- quickstart -->"

// TestTheQuickStartOfTheREADMEWorks runs what the README tells a newcomer to copy,
// line by line, and stops at the first command that fails. What makes the cluster
// is left out: it is there. The script names no namespace; here it works in that of
// the scene, so that nothing in "default" is touched.
func TestTheQuickStartOfTheREADMEWorks(t *testing.T) {
	s := newScene(t)
	config := s.ownKubeconfig()
	script := s.quickstart(config)
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euxo", "pipefail", "-c", script)
	shell.Dir = tree
	bin, err := filepath.Abs(filepath.Join(tree, "bin/cluster"))
	s.must(err)
	shell.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+config)
	var out, trace bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &trace
	if err := shell.Run(); err != nil {
		t.Fatalf("the quick start ends with %v:\n%s\n%s", err, out.String(), trace.String())
	}
	t.Logf("the quick start says:\n%s", out.String())
	// The restored file, and the filesystem after its growth.
	for _, want := range []string{`(?m)^first light$`, `(?m)\s(1\.9|2\.0)G\s.*/data$`} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("the quick start does not say %s", want)
		}
	}
}

// ownKubeconfig is the path of a copy of the administrator's configuration in which
// the scene's namespace is what is meant where none is named.
func (s *scene) ownKubeconfig() string {
	s.t.Helper()
	path, _ := s.cluster.Kubeconfig()
	config, err := clientcmd.LoadFromFile(path)
	s.must(err)
	current := config.Contexts[config.CurrentContext]
	if current == nil {
		s.t.Fatalf("%s has no context %q, which it says is the current one", path, config.CurrentContext)
	}
	current.Namespace = s.ns
	own := filepath.Join(s.t.TempDir(), "kubeconfig")
	s.must(clientcmd.WriteToFile(*config, own))
	return own
}

// quickstart is the text of the blocks of code between the two marks, with another
// kubeconfig wherever it sets one.
func (s *scene) quickstart(config string) string {
	s.t.Helper()
	parts := strings.Split(s.read("README.md"), quickstartMark)
	if len(parts) != 3 {
		s.t.Fatalf("README.md has %d marks %s, want one before and one after the quick start", len(parts)-1, quickstartMark)
	}
	var script strings.Builder
	fenced := false
	for line := range strings.Lines(parts[1]) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case !fenced, strings.HasPrefix(line, "make cluster"):
		default:
			script.WriteString(line)
			if strings.HasPrefix(line, "export ") {
				fmt.Fprintf(&script, "export KUBECONFIG=%q\n", config)
			}
		}
	}
	if !strings.Contains(script.String(), "kubectl") {
		s.t.Fatalf("the quick start has no command with kubectl:\n%s", script.String())
	}
	return script.String()
}
