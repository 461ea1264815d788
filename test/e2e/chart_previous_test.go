package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// previousChart is the chart of the last commit in which it was another than now, in a
// directory of the test, and a word about it. Without one the directory is "", and the
// word says why.
func previousChart(t *testing.T) (dir, word string) {
	t.Helper()
	const path = "deploy/helm/holdfast"
	commits, err := git(t.Context(), "log", "--format=%H", "--", path)
	if err != nil {
		return "", fmt.Sprintf("the chart of this tree, for its history is not here: %v", err)
	}
	for commit := range strings.FieldsSeq(commits) {
		if _, err := git(t.Context(), "diff", "--quiet", commit, "--", path); err == nil {
			continue
		}
		archive, err := git(t.Context(), "archive", "--format=tar", commit, path)
		if err != nil {
			continue // the commit that removed it
		}
		top := t.TempDir()
		unpack := exec.CommandContext(t.Context(), "tar", "-x", "-C", top)
		unpack.Stdin = strings.NewReader(archive)
		if out, err := unpack.CombinedOutput(); err != nil {
			t.Fatalf("unpack the chart of commit %s: %v: %s", commit, err, out)
		}
		return filepath.Join(top, path), "the chart of commit " + commit[:12]
	}
	return "", "the chart of this tree, for no commit of its history has another"
}

func git(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", tree}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// imagesHere are values for an older chart by which its containers have the images of
// the one of this tree: the cluster has no registry, and no others.
func imagesHere(t *testing.T, old, now string) map[string]any {
	t.Helper()
	var before, today struct{ Images map[string]any }
	var chart struct{ AppVersion string }
	readYAML(t, filepath.Join(old, "values.yaml"), &before)
	readYAML(t, filepath.Join(now, "values.yaml"), &today)
	readYAML(t, filepath.Join(now, "Chart.yaml"), &chart)
	same := map[string]any{}
	for key := range before.Images {
		if image, ok := today.Images[key].(map[string]any); ok {
			same[key] = image
		}
	}
	same["driver"] = map[string]any{"tag": chart.AppVersion}
	return map[string]any{"images": same}
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
}
