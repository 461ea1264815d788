package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const quickstartMark = "<!-- quickstart -->"

// TestTheQuickStartOfTheREADMEWorks runs what the README tells a newcomer to copy,
// line by line, in the namespace "default", and stops at the first command that
// fails. What makes the cluster is left out: it is there.
func TestTheQuickStartOfTheREADMEWorks(t *testing.T) {
	s := newScene(t)
	script := s.quickstart()
	here := s.in("default")
	t.Cleanup(here.end)
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euxo", "pipefail", "-c", script)
	shell.Dir = tree
	bin, err := filepath.Abs(filepath.Join(tree, "bin/cluster"))
	s.must(err)
	shell.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+filepath.Join(bin, "kubeconfig"))
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

// quickstart is the text of the blocks of code between the two marks.
func (s *scene) quickstart() string {
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
		}
	}
	if !strings.Contains(script.String(), "kubectl") {
		s.t.Fatalf("the quick start has no command with kubectl:\n%s", script.String())
	}
	return script.String()
}
