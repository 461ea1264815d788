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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// guideMark stands before and after what a guide tells its reader to run.
const guideMark = "<!-- run -->"

// TestTheCommandsOfTheGuidesWork runs what the guides tell a reader to copy, from
// the first mark to the last, in order, and stops at the first command that fails.
// They name no namespace; here they work in that of the scene.
func TestTheCommandsOfTheGuidesWork(t *testing.T) {
	t.Parallel()
	for guide, wants := range map[string][]string{
		// What must be in the output, beside that every command succeeds.
		"storage-classes.md": {`(?m) /data ext4 .*\bnoatime\b`, `(?m)^\S+\s+1[23]\d{4}\s.* /data$`},
		"snapshots.md":       {`(?m)^NAME +READYTOUSE`, `notes-monday +true`},
		"growing.md":         {`(?m)\s9\d\d\.\dM\s.*/data$`, `(?m)^counter-1 +1/1 +Running +0 `},
	} {
		t.Run(guide, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			// It has no namespace, and a script that ends early leaves it.
			if guide == "storage-classes.md" {
				s.afterwards(func(late *scene) {
					err := late.kube.StorageV1().StorageClasses().Delete(late.ctx, "many-files", metav1.DeleteOptions{})
					if !apierrors.IsNotFound(err) {
						late.must(err)
					}
				})
			}
			out := s.script(s.marked("docs/guides/" + guide))
			for _, want := range wants {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("%s: the commands do not say %s:\n%s", guide, want, out)
				}
			}
			if guide == "snapshots.md" && strings.Contains(out, "a mistake") {
				t.Errorf("the volume was not restored:\n%s", out)
			}
		})
	}
}

// marked is the text of the blocks of code between pairs of marks in a document.
func (s *scene) marked(document string) string {
	s.t.Helper()
	parts := strings.Split(s.read(document), guideMark)
	if len(parts) < 3 || len(parts)%2 == 0 {
		s.t.Fatalf("%s has %d marks %s, want pairs of them", document, len(parts)-1, guideMark)
	}
	var script strings.Builder
	for i := 1; i < len(parts); i += 2 {
		fenced := false
		for line := range strings.Lines(parts[i]) {
			switch {
			case strings.HasPrefix(line, "```"):
				fenced = !fenced
			case fenced:
				script.WriteString(line)
			}
		}
	}
	return script.String()
}

// script runs a script of a shell in the scene's namespace, and demands that every
// command of it succeeds. It returns what they say. environment is what the guide tells
// its reader to have, as NAME=value.
func (s *scene) script(text string, environment ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Minute)
	defer cancel()
	bin, err := filepath.Abs(filepath.Join(tree, "bin/cluster"))
	s.must(err)
	shell := exec.CommandContext(ctx, "bash", "-euxo", "pipefail", "-c", text)
	shell.Dir = tree
	shell.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+s.ownKubeconfig())
	shell.Env = append(shell.Env, environment...)
	var out, trace bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &trace
	if err := shell.Run(); err != nil {
		s.t.Fatalf("the commands end with %v:\n%s\n%s", err, out.String(), trace.String())
	}
	return out.String()
}
