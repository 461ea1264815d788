package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// PreviousDriver is the commit of the driver before that of this tree: the newest
// tag that is not the current commit's, else the parent of the last commit that
// changed the driver. "" if the history is not here, as in a shallow clone.
func (c *Cluster) PreviousDriver(ctx context.Context) string {
	git := func(args ...string) string {
		out, err := command(ctx, "git", append([]string{"-C", c.tree}, args...)...)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(out)
	}
	if tag := git("describe", "--tags", "--abbrev=0", "HEAD^"); tag != "" {
		return tag
	}
	last := git("log", "-1", "--format=%H", "--", "cmd", "pkg", "go.mod", ":(exclude)*_test.go")
	if last == "" {
		return ""
	}
	return git("rev-parse", "--verify", "--quiet", last+"^")
}

// BuildDriverImageAt builds the driver of a commit and imports its image as ref,
// whose tag is the driver's version. It returns the manifests of that commit,
// rendered.
func (c *Cluster) BuildDriverImageAt(ctx context.Context, ref, commit string) (manifests string, err error) {
	_, version, ok := strings.Cut(ref, ":")
	if !ok {
		return "", fmt.Errorf("image %s: want NAME:TAG", ref)
	}
	dir, err := os.MkdirTemp("", "holdfast-commit-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	then := layout{tree: filepath.Join(dir, "tree")}
	if err := os.Mkdir(then.tree, 0o755); err != nil {
		return "", err
	}
	archive := filepath.Join(dir, "tree.tar")
	if _, err := command(ctx, "git", "-C", c.tree, "archive", "--format=tar", "-o", archive, commit); err != nil {
		return "", fmt.Errorf("read the tree of %s: %w", commit, err)
	}
	if _, err := command(ctx, "tar", "-x", "-f", archive, "-C", then.tree); err != nil {
		return "", fmt.Errorf("read the tree of %s: %w", commit, err)
	}
	driver := filepath.Join(dir, "driver")
	if err := then.buildHere(ctx, driver, "./cmd/driver", "-ldflags", "-s -w -X main.version="+version); err != nil {
		return "", fmt.Errorf("build the driver of %s: %w", commit, err)
	}
	if err := c.importImage(ctx, ref, func(ctx context.Context, root string) (string, error) {
		// The programs beside the driver are Debian's, and the same.
		_, err := command(ctx, filepath.Join(c.tree, "hack/image-rootfs.sh"), driver, root)
		return "/driver", err
	}); err != nil {
		return "", err
	}
	return c.Kubectl(ctx, "kustomize", filepath.Join(then.tree, overlay))
}
