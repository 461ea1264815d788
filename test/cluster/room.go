package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// overlayFor is the directory to apply: what a user applies, unchanged, if the
// disk has room for its pool. Else a small pool is patched in, for a machine that
// is good enough for a test is not always good enough for a user. What was chosen
// first stays.
func (l layout) overlayFor(log io.Writer) (string, error) {
	chosen := filepath.Join(dataDir, "pool-args")
	args, err := os.ReadFile(chosen)
	if errors.Is(err, fs.ErrNotExist) {
		text, terr := smallPool(PoolsDir)
		if terr != nil {
			return "", terr
		}
		args, err = []byte(text), os.WriteFile(chosen, []byte(text), 0o644)
	}
	if err != nil {
		return "", err
	}
	if len(args) == 0 {
		return filepath.Join(l.tree, overlay), nil
	}
	fmt.Fprintf(log, "the disk is small: the driver gets %s\n", args)
	return l.patchedOverlay(strings.Fields(string(args)))
}

// The pool of the overlay, what it must leave free by default, and what is left
// for images and logs.
const (
	poolSize   = 20 << 30
	keepFree   = 0.15
	headroom   = 6 << 30
	leastSmall = 10 << 30
)

// smallPool is the arguments that make the driver content with the disk below dir,
// "" if it has room for the pool of the overlay.
func smallPool(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	total, free := st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
	if free > poolSize+headroom+uint64(keepFree*float64(total)) {
		return "", nil
	}
	if free < leastSmall+headroom {
		return "", fmt.Errorf("the disk of %s has %d GiB free: a cluster needs %d", dir, free>>30, (leastSmall+headroom)>>30)
	}
	size := min(poolSize, free-headroom)
	return fmt.Sprintf("--pool-size=%dGi --host-reserve=1", size>>30), nil
}

// patchedOverlay is a directory that adds arguments of the driver to the overlay.
func (l layout) patchedOverlay(args []string) (string, error) {
	dir := l.bin("overlay")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	base, err := filepath.Rel(dir, filepath.Join(l.tree, overlay))
	if err != nil {
		return "", err
	}
	var patch strings.Builder
	for _, a := range args {
		fmt.Fprintf(&patch, "      - {op: add, path: /spec/template/spec/containers/0/args/-, value: %q}\n", a)
	}
	text := fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
patches:
  - target: {kind: DaemonSet, name: holdfast}
    patch: |-
%s`, base, patch.String())
	return dir, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644)
}
