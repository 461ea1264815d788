package mount_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

func openRoot(t testing.TB, dir string) *mount.Root {
	t.Helper()
	root, err := mount.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// newTmpfs mounts a filesystem in memory at a new target below root.
func newTmpfs(t testing.TB, root *mount.Root, path string) {
	t.Helper()
	tree, err := mount.New(t.Context(), mount.Config{FSType: "tmpfs", Source: "test", Options: []mount.Option{{Key: "size", Value: "1m"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	attachTree(t, root, tree, path, mount.Dir)
}

func attachTree(t testing.TB, root *mount.Root, tree *mount.Tree, path string, kind mount.Kind) {
	t.Helper()
	target, err := root.CreateTarget(path, kind)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := tree.Attach(target); err != nil {
		t.Fatal(err)
	}
}

func layers(t testing.TB, path string) []mount.Info {
	t.Helper()
	infos, err := mount.List()
	if err != nil {
		t.Fatal(err)
	}
	return mount.At(infos, path)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tempDir is t.TempDir without symbolic links in its path, as mountinfo has it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
