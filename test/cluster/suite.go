package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Suite is upstream's end-to-end suite, and what runs it.
type Suite struct {
	// Program has all of the tests, and Ginkgo runs it in several processes.
	Program, Ginkgo string
	// Version is the one of Kubernetes, and Source the directory of its module.
	Version, Source string
}

// suiteSource is of the same version as the cluster, in a build module of its own:
// the cluster does not need it.
func (l layout) suiteSource() source {
	all := l.programs()
	s := all[slices.IndexFunc(all, func(s source) bool { return s.name == "kubernetes" })]
	s.name, s.packages = "suite", []string{"test/images/agnhost"}
	s.foreign, s.tests = []string{"github.com/onsi/ginkgo/v2/ginkgo"}, []string{"test/e2e"}
	return s
}

// suiteName is the registry of the images of upstream's tests.
const suiteName = "registry.k8s.io/e2e-test-images/"

// suiteImages are those that the storage tests use.
func suiteImages() []string {
	return []string{
		suiteName + "busybox:1.37.0-1", suiteName + "agnhost:2.63.0",
		suiteName + "nginx:1.15-4", suiteName + "glibc-dns-testing:2.0.0",
		populatorImage,
	}
}

// populatorImage is named by a manifest inside the suite.
const populatorImage = sidecarName + "hello-populator:v1.0.1"

// BuildSuite builds upstream's suite, which takes minutes where it is not built yet.
// It needs no cluster.
func BuildSuite(ctx context.Context, log io.Writer) (Suite, error) {
	l, err := findTree()
	if err != nil {
		return Suite{}, err
	}
	if err := os.MkdirAll(l.bin(), 0o755); err != nil {
		return Suite{}, err
	}
	s := l.suiteSource()
	if err := s.build(ctx, l.bin(), log); err != nil {
		return Suite{}, err
	}
	got, err := s.download(ctx, l.tree)
	if err != nil {
		return Suite{}, err
	}
	return Suite{Program: filepath.Join(l.kubernetesDir(), "e2e.test"), Ginkgo: filepath.Join(l.kubernetesDir(), "ginkgo"), Version: s.version, Source: got.Dir}, nil
}

// PrepareSuite builds the suite and gives the node the images of its storage tests.
// Upstream's own images cannot be had without a registry; these have the programs of
// theirs that the tests call.
func (c *Cluster) PrepareSuite(ctx context.Context, log io.Writer) (Suite, error) {
	suite, err := BuildSuite(ctx, log)
	if err != nil {
		return Suite{}, err
	}
	listed, err := command(ctx, suite.Program, "--list-images")
	if err != nil {
		return Suite{}, err
	}
	for _, ref := range suiteImages() {
		if ref != populatorImage && !slices.Contains(strings.Fields(listed), ref) {
			return Suite{}, fmt.Errorf("the tests of Kubernetes %s do not use %s; e2e.test --list-images tells what they use", suite.Version, ref)
		}
		if err := c.provide(ctx, ref, log); err != nil {
			return Suite{}, err
		}
	}
	return suite, nil
}

// suiteMaker finds how to make an image of upstream's tests.
func (l layout) suiteMaker(ref string) (imageMaker, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(ref, suiteName), ":")
	switch name {
	case "busybox", "nginx": // of nginx the storage tests use the shell
		return l.busybox("", nil), nil
	case "agnhost":
		return l.agnhost, nil
	case "glibc-dns-testing":
		return l.glibc, nil
	}
	return nil, fmt.Errorf("nobody here knows how to make %s", ref)
}

// agnhost is upstream's program of many small servers and checks. Its image has a
// shell, too.
func (l layout) agnhost(ctx context.Context, dir string) (string, error) {
	if _, err := l.busybox("", nil)(ctx, dir); err != nil {
		return "", err
	}
	return "/agnhost", copyFile(filepath.Join(l.kubernetesDir(), "agnhost"), filepath.Join(dir, "agnhost"))
}

// glibc is the image with a dd that knows oflag=nocache, which busybox does not. It
// has another shell, too: busybox' takes its own dd whatever PATH has.
func (l layout) glibc(ctx context.Context, dir string) (string, error) {
	entrypoint, err := l.busybox("", nil)(ctx, dir)
	if err != nil {
		return "", err
	}
	for from, to := range map[string]string{"/bin/dd": "bin/dd", "/bin/dash": "bin/sh"} {
		if err := os.Remove(filepath.Join(dir, to)); err != nil {
			return "", err
		}
		if err := copyWithLibraries(ctx, from, filepath.Join(dir, to), dir); err != nil {
			return "", err
		}
	}
	return entrypoint, nil
}

// copyWithLibraries copies a program, and the shared libraries that it needs to
// where the program looks for them below root, unless they are there.
func copyWithLibraries(ctx context.Context, program, to, root string) error {
	if err := copyFile(program, to); err != nil {
		return err
	}
	needed, err := command(ctx, "ldd", program)
	if err != nil {
		return err
	}
	for library := range strings.FieldsSeq(needed) {
		if !strings.HasPrefix(library, "/") {
			continue
		}
		to := filepath.Join(root, library)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := copyFile(library, to); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
