// Package chart renders the Helm chart of deploy/helm/holdfast, with a real helm of
// one fixed version that it builds from its Go module when it is first needed. It also
// writes what the chart is the source of: the manifests of deploy/kustomize and the
// reference of its values ([Chart.Generated]).
//
// It promises that nothing of the user's own Helm is read or changed: configuration,
// cache and data of this one are below bin/tools.
package chart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// dir is the chart, seen from the top of the tree.
	dir = "deploy/helm/holdfast"

	helmModule  = "helm.sh/helm/v4"
	helmVersion = "v4.3.1"
)

// Chart is the chart of a source tree.
type Chart struct {
	tree string
}

// In is the chart of the tree whose top this is.
func In(tree string) (Chart, error) {
	top, err := filepath.Abs(tree)
	if err != nil {
		return Chart{}, err
	}
	if _, err := os.Stat(filepath.Join(top, dir, "Chart.yaml")); err != nil {
		return Chart{}, fmt.Errorf("look for the chart: %w", err)
	}
	return Chart{tree: top}, nil
}

// Dir is the directory of the chart.
func (c Chart) Dir() string { return filepath.Join(c.tree, dir) }

// Helm runs helm and returns its standard output. The error has what it wrote to
// standard error.
func (c Chart) Helm(ctx context.Context, input string, args ...string) (string, error) {
	program, err := c.program(ctx)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "HELM_") })
	for _, kind := range []string{"CACHE", "CONFIG", "DATA"} {
		cmd.Env = append(cmd.Env, fmt.Sprintf("HELM_%s_HOME=%s", kind, filepath.Join(c.tools(), "helm", strings.ToLower(kind))))
	}
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (c Chart) tools() string { return filepath.Join(c.tree, "bin", "tools") }

// program is the path of helm, which is built if it is not there: that takes some
// minutes. Two processes that need it build it once.
func (c Chart) program(ctx context.Context) (string, error) {
	path := filepath.Join(c.tools(), "helm-"+helmVersion)
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if err := os.MkdirAll(c.tools(), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(c.tools(), ".helm.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	work, err := os.MkdirTemp(c.tools(), ".helm-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath",
		"-ldflags", "-s -w -X "+helmModule+"/internal/version.version="+helmVersion, helmModule+"/cmd/helm@"+helmVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+work, "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s %s: %w: %s", helmModule, helmVersion, err, out)
	}
	return path, os.Rename(filepath.Join(work, "helm"), path)
}
