package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// hostileRoot is a root with traps in it, next to a directory that must stay as it
// is.
func hostileRoot(t *testing.T) (root *mount.Root, dir, outside string) {
	t.Helper()
	base := tempDir(t)
	dir, outside = filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{dir, outside, filepath.Join(dir, "pods")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"escape": outside, "relative": "../outside", "inner": "pods", "dangling": "nowhere", "proc": "/proc/self/cwd",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "file"), "")
	return openRoot(t, dir), dir, outside
}

func TestHostilePathsAreRefusedAndNothingIsTouched(t *testing.T) {
	root, dir, outside := hostileRoot(t)
	for _, c := range []struct {
		name, path string
		want       error
	}{
		{"empty", "", volume.ErrInvalid},
		{"relative", "pods/target", volume.ErrInvalid},
		{"the root itself", dir, volume.ErrInvalid},
		{"the root with a slash", dir + "/", volume.ErrInvalid},
		{"outside", outside + "/target", volume.ErrInvalid},
		{"outside by name", dir + "side/target", volume.ErrInvalid},
		{"/", "/", volume.ErrInvalid},
		{"dot dot", dir + "/../outside/target", volume.ErrInvalid},
		{"dot dot that comes back", dir + "/pods/../pods/target", volume.ErrInvalid},
		{"dot dot at the end", dir + "/pods/..", volume.ErrInvalid},
		{"an absolute link", dir + "/escape/target", volume.ErrInvalid},
		{"a relative link", dir + "/relative/target", volume.ErrInvalid},
		{"a link inside", dir + "/inner/target", volume.ErrInvalid},
		{"a link at the end", dir + "/inner", volume.ErrInvalid},
		{"a dangling link at the end", dir + "/dangling", volume.ErrInvalid},
		{"a magic link", dir + "/proc/target", volume.ErrInvalid},
		{"a newline", dir + "/pods/a\nb", volume.ErrInvalid},
		{"a NUL", dir + "/pods/a\x00b", volume.ErrInvalid},
		{"an escape", dir + "/pods/\x1b[2J", volume.ErrInvalid},
		{"a C1 control", dir + "/pods/\u0085", volume.ErrInvalid},
		{"no UTF-8", dir + "/pods/\xff", volume.ErrInvalid},
		{"a long part", dir + "/pods/" + strings.Repeat("a", 256), volume.ErrInvalid},
		{"a long path", dir + "/pods" + strings.Repeat("/a", 2048), volume.ErrInvalid},
		{"a huge path", dir + "/" + strings.Repeat("x/", 5<<19), volume.ErrInvalid},
		{"a file on the way", dir + "/file/target", volume.ErrPrecondition},
		{"a file at the end", dir + "/file", volume.ErrPrecondition},
		{"two missing levels", dir + "/pods/a/b/target", volume.ErrPrecondition},
	} {
		t.Run(c.name, func(t *testing.T) {
			target, err := root.CreateTarget(c.path, mount.Dir)
			if err == nil {
				target.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("CreateTarget = %v, want %v", err, c.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if !errors.Is(c.want, volume.ErrInvalid) {
				return
			}
			if _, err := root.Resolve(c.path); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("Resolve = %v, want ErrInvalid", err)
			}
			if err := root.RemoveTarget(t.Context(), c.path); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("RemoveTarget = %v, want ErrInvalid", err)
			}
			if err := root.Unmount(t.Context(), c.path); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("Unmount = %v, want ErrInvalid", err)
			}
			if target, err := root.OpenTarget(c.path); !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("OpenTarget = %v, %v, want ErrInvalid", target, err)
			}
		})
	}
	for d, want := range map[string][]string{
		outside: nil, filepath.Join(dir, "pods"): nil,
		dir: {"dangling", "escape", "file", "inner", "pods", "proc", "relative"},
	} {
		entries, err := os.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%s was touched (-want +got):\n%s", d, diff)
		}
	}
}

func TestTargetIsMadeOnceWithItsMode(t *testing.T) {
	dir := tempDir(t)
	root := openRoot(t, dir)
	for _, c := range []struct {
		path string
		kind mount.Kind
		mode os.FileMode
	}{
		{dir + "/volume/mount", mount.Dir, os.ModeDir | 0o750},
		{dir + "/volume/block", mount.File, 0o640},
		{dir + "/volume//slashes/", mount.Dir, os.ModeDir | 0o750},
		{dir + "/volume/" + strings.Repeat("n", 255), mount.Dir, os.ModeDir | 0o750},
		{dir + "/volume/ein Würfel", mount.Dir, os.ModeDir | 0o750},
	} {
		for range 2 {
			target, err := root.CreateTarget(c.path, c.kind)
			if err != nil {
				t.Fatal(err)
			}
			if target.Path() != filepath.Clean(c.path) {
				t.Errorf("Path = %q, want %q", target.Path(), c.path)
			}
			target.Close()
		}
		if st, err := os.Lstat(c.path); err != nil || st.Mode() != c.mode {
			t.Errorf("%s has mode %v, %v, want %v", c.path, st.Mode(), err, c.mode)
		}
		for range 2 {
			if err := root.RemoveTarget(t.Context(), c.path); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Lstat(c.path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", c.path, err)
		}
	}
}

func TestRootBehindALinkTakesBothPaths(t *testing.T) {
	base := tempDir(t)
	real, link := base+"/real", base+"/link"
	if err := errors.Join(os.Mkdir(real, 0o755), os.Symlink(real, link)); err != nil {
		t.Fatal(err)
	}
	root := openRoot(t, link)
	for _, dir := range []string{real, link} {
		got, err := root.Resolve(dir + "/target")
		if err != nil || got != real+"/target" {
			t.Errorf("Resolve(%s/target) = %q, %v", dir, got, err)
		}
	}
	if _, err := mount.OpenRoot(base + "/nowhere"); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("OpenRoot of nothing = %v, want ErrPrecondition", err)
	}
}

func TestTargetWithContentIsNeverRemoved(t *testing.T) {
	dir := tempDir(t)
	root := openRoot(t, dir)
	if err := os.MkdirAll(dir+"/full/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/data", "precious")
	for _, name := range []string{"full", "data"} {
		if err := root.RemoveTarget(t.Context(), dir+"/"+name); !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("RemoveTarget(%s) = %v, want ErrPrecondition", name, err)
		}
		if _, err := os.Stat(dir + "/" + name); err != nil {
			t.Error(err)
		}
	}
	if err := root.RemoveTarget(t.Context(), dir+"/missing/parent/target"); err != nil {
		t.Errorf("RemoveTarget below missing directories = %v", err)
	}
	if _, err := root.OpenTarget(dir + "/missing"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("OpenTarget of nothing = %v, want ErrNotFound", err)
	}
}
