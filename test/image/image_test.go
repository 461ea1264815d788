package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(rootEnv); root != "" {
		fmt.Fprintln(os.Stderr, become(root, os.Args[1:]))
		os.Exit(1)
	}
	roottest.Main(m)
}

// repository is the top of the tree, seen from this package.
const repository = "../.."

// newRootFS assembles the root filesystem, with the driver of this tree.
func newRootFS(t *testing.T) string {
	t.Helper()
	roottest.Require(t)
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("the image is made of Debian packages: apt-get is not here")
	}
	dir := t.TempDir()
	driver, root := filepath.Join(dir, "driver"), filepath.Join(dir, "rootfs")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-X main.version=image-test", "-o", driver, "./cmd/driver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	assemble := exec.CommandContext(t.Context(), "hack/image-rootfs.sh", driver, root)
	for _, cmd := range []*exec.Cmd{build, assemble} {
		cmd.Dir = repository
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	return root
}

// bind shows a directory of this machine at another place, too.
func bind(t *testing.T, dir, at string) {
	t.Helper()
	if err := syscall.Mount(dir, at, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		t.Fatalf("bind %s to %s: %v", dir, at, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			t.Errorf("unbind %s: %v", at, err)
		}
	})
}

// rootEnv makes this binary a program of the root filesystem that it names.
const rootEnv = "HOLDFAST_IMAGE_ROOT"

// run runs a program of the root filesystem with that as its whole world.
func run(ctx context.Context, root string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", argv...)
	cmd.Env = []string{rootEnv + "=" + root}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// Interrupted, the demo cleans up.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// become makes root the root of this process' mount namespace, as a container
// runtime does (pivot_root(2), NOTES), and the process the program argv[0] in it.
// It returns only if that fails.
func become(root string, argv []string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", root, err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("let the old root go: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", argv[0], syscall.Exec(argv[0], argv, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}))
}

func TestImage(t *testing.T) {
	root := newRootFS(t)
	t.Run("has nothing but what it needs", func(t *testing.T) { hasNothingElse(t, root) })
	t.Run("has all that the driver needs", func(t *testing.T) { livesThrough(t, root) })
}

// livesThrough runs each program, and the demo.
func livesThrough(t *testing.T, root string) {
	bind(t, root, root) // pivot_root wants a mount point
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		bind(t, dir, filepath.Join(root, dir))
	}
	for program, flag := range map[string]string{
		"/driver": "version", "/sbin/mkfs.btrfs": "--version", "/sbin/mkfs.ext4": "-V", "/sbin/mkfs.xfs": "-V", "/sbin/e2fsck": "-V", "/sbin/xfs_repair": "-V",
	} {
		if out, err := run(t.Context(), root, program, flag); err != nil || out == "" {
			t.Errorf("%s %s: %v\n%s", program, flag, err, out)
		}
	}
	// It has no flag for its version, and says so with its usage.
	if out, _ := run(t.Context(), root, "/sbin/resize2fs"); !strings.Contains(out, "Usage: /sbin/resize2fs") {
		t.Errorf("resize2fs does not start:\n%s", out)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := run(ctx, root, "/driver", "demo", "--data=32Mi")
	if err != nil {
		t.Fatalf("the demo in the image: %v\n%s", err, out)
	}
	if left, err := os.ReadDir(filepath.Join(root, "var/tmp")); err != nil || len(left) > 0 {
		t.Errorf("the demo left %v, %v", left, err)
	}
}

// hasNothingElse looks at the programs, and for the licence of each package.
func hasNothingElse(t *testing.T, root string) {
	var programs []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s is setuid or setgid", name)
		}
		if info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !strings.Contains(name, "/lib") {
			programs = append(programs, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "/driver /sbin/e2fsck /sbin/mkfs.btrfs /sbin/mkfs.ext4 /sbin/mkfs.xfs /sbin/resize2fs /sbin/xfs_repair"
	if got := strings.Join(programs, " "); got != want {
		t.Errorf("the programs in the image are %s, want %s", got, want)
	}
	list, err := os.ReadFile(filepath.Join(root, "usr/share/doc/packages"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(line, " ")
		if _, err := os.Stat(filepath.Join(root, "usr/share/doc", name, "copyright")); err != nil {
			t.Errorf("the licence of %s is missing: %v", name, err)
		}
		// Where scanners look.
		control, err := os.ReadFile(filepath.Join(root, "var/lib/dpkg/status.d", name))
		if err != nil || !strings.Contains(string(control), "Package: "+name+"\n") || !strings.Contains(string(control), "\nVersion: ") {
			t.Errorf("the record of %s is %q, %v", name, control, err)
		}
	}
	for path, words := range map[string]string{
		"usr/share/doc/holdfast/copyright":   "Apache License",
		"usr/share/doc/holdfast/THIRD_PARTY": "google.golang.org/grpc",
		"etc/os-release":                     "ID=debian\n",
	} {
		if text, err := os.ReadFile(filepath.Join(root, path)); err != nil || !strings.Contains(string(text), words) {
			t.Errorf("%s of the image does not speak of %q: %v", path, words, err)
		}
	}
}
