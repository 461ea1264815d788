package roottest_test

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// misbehaveEnv makes this binary, started again, leave something behind.
const misbehaveEnv = "HOLDFAST_ROOTTEST_MISBEHAVE"

func TestMain(m *testing.M) { roottest.Main(m) }

func TestRunsInItsOwnMountNamespace(t *testing.T) {
	roottest.Require(t)
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	// The parent is this binary's first run, still in the machine's namespace.
	parent, err := os.Readlink("/proc/" + strconv.Itoa(os.Getppid()) + "/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if own == parent {
		t.Error("this is the machine's mount namespace")
	}
}

func TestLeaksFailThePackage(t *testing.T) {
	if kind := os.Getenv(misbehaveEnv); kind != "" {
		misbehave(t, kind)
		return
	}
	roottest.Require(t)
	for kind, want := range map[string]string{
		"nothing":    "",
		"descriptor": `leaked file descriptor \d+ on /dev/null`,
		"file":       `leaked file descriptor \d+ on /dev/zero`,
		"socket":     `leaked file descriptor \d+ on socket:`,
		"mount":      `leaked mount .* tmpfs `,
		"loop":       `leaked loop device loop\d+ on .*/disk\.img`,
		"skip":       "",
	} {
		out, code := runAgain(t, kind)
		if (code != 0) != (want != "") || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s: exit code %d, output %q, want %q", kind, code, out, want)
		}
	}
}

// runAgain runs misbehave in a process of its own.
func runAgain(t *testing.T, kind string) (output string, code int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	env := []string{misbehaveEnv + "=" + kind}
	for _, e := range os.Environ() {
		if kind != "skip" || !strings.HasPrefix(e, "HOLDFAST_ROOT_TESTS=") {
			env = append(env, e)
		}
	}
	child, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], "-test.run=^TestLeaksFailThePackage$"}, &os.ProcAttr{
		Env: env, Files: []*os.File{nil, w, w},
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	state, err := child.Wait()
	if err != nil {
		t.Fatal(err)
	}
	// What the child left behind on purpose.
	infos, err := loop.Find("roottest-leak")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if dev, err := i.Open(); err == nil {
			_ = dev.Detach() // the leak check of this package speaks up if it stays
		}
	}
	_ = syscall.Unmount(filepath.Join(os.TempDir(), "leaked-mount"), 0) // there may be none
	return string(b), state.ExitCode()
}

// misbehave leaves behind what kind says.
func misbehave(t *testing.T, kind string) {
	roottest.Require(t)
	roottest.Impatient()
	switch kind {
	case "descriptor":
		if _, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0); err != nil {
			t.Fatal(err)
		}
	case "file":
		if _, err := os.Open("/dev/zero"); err != nil {
			t.Fatal(err)
		}
	case "socket":
		if _, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); err != nil {
			t.Fatal(err)
		}
	case "mount":
		dir := filepath.Join(os.TempDir(), "leaked-mount")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("leak", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	case "loop":
		f, err := os.Create(filepath.Join(os.TempDir(), "disk.img"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(1 << 20); err != nil {
			t.Fatal(err)
		}
		dev, err := loop.Attach(t.Context(), loop.Config{Backing: f, Tag: "roottest-leak", BlockSize: 512})
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.SetAutoclear(false); err != nil {
			t.Fatal(err)
		}
		dev.Close()
	}
}
