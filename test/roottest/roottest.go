package roottest

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

const (
	// switchEnv switches the tests that need root on.
	switchEnv = "HOLDFAST_ROOT_TESTS"
	// insideEnv tells the second run of the test binary that it has its own mount
	// namespace.
	insideEnv = "HOLDFAST_ROOT_TESTS_INSIDE"
)

func enabled() (ok bool, reason string) {
	switch {
	case os.Getenv(switchEnv) != "1":
		return false, switchEnv + "=1 is not set"
	case os.Geteuid() != 0:
		return false, "needs root"
	}
	return true, ""
}

// Every says that tests which have a short form take their long one, in which they
// go through all combinations: HOLDFAST_EVERY=1.
func Every() bool { return os.Getenv("HOLDFAST_EVERY") == "1" }

// Require skips the test, with the reason printed, unless the process is root and
// HOLDFAST_ROOT_TESTS=1. The test's package must have Main as its TestMain.
func Require(t testing.TB) {
	t.Helper()
	if ok, reason := enabled(); !ok {
		t.Skip("root test: " + reason)
	}
	if os.Getenv(insideEnv) != "1" {
		t.Fatal("this package needs func TestMain(m *testing.M) { roottest.Main(m) }")
	}
}

// Main runs a package's tests and exits. With HOLDFAST_ROOT_TESTS=1, as root, it
// runs them in a private mount namespace with a temporary directory of their own,
// and fails the package if they leave loop devices, mounts or file descriptors
// behind. Use: func TestMain(m *testing.M) { roottest.Main(m) }
func Main(m *testing.M) {
	ok, _ := enabled()
	switch {
	case !ok || isFuzzWorker():
		os.Exit(m.Run())
	case os.Getenv(insideEnv) == "1":
		os.Exit(runAndCheck(m))
	default:
		os.Exit(runInside())
	}
}

// isFuzzWorker: go test -fuzz starts this binary again, as a process that must
// talk to its parent directly.
func isFuzzWorker() bool {
	for _, a := range os.Args[1:] {
		if strings.HasPrefix(a, "-test.fuzzworker") {
			return true
		}
	}
	return false
}

// runInside runs this binary again in its own mount namespace. Nothing it mounts
// is seen outside, and whatever it forgets to unmount goes with it.
func runInside() int {
	tmp, err := os.MkdirTemp("", "holdfast-roottest-")
	if err != nil {
		return complain("make a temporary directory: %v", err)
	}
	defer os.RemoveAll(tmp)
	// The child dies with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), insideEnv+"=1", "TMPDIR="+tmp),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{
			// Go makes / recursively private in the new namespace.
			Unshareflags: syscall.CLONE_NEWNS,
			Pdeathsig:    syscall.SIGKILL,
		},
	})
	if err != nil {
		return complain("run the tests in their own mount namespace: %v", err)
	}
	state, err := child.Wait()
	if err != nil {
		return complain("wait for the tests: %v", err)
	}
	if state.ExitCode() < 0 {
		return complain("the tests ended with %s", state)
	}
	return state.ExitCode()
}

func runAndCheck(m *testing.M) int {
	before, err := observe(os.TempDir())
	if err != nil {
		return complain("look at the machine before the tests: %v", err)
	}
	code := m.Run()
	leaks, err := before.leaks()
	if err != nil {
		return complain("look at the machine after the tests: %v", err)
	}
	for _, l := range leaks {
		complain("leaked %s", l)
	}
	if code == 0 && len(leaks) > 0 {
		return 1
	}
	return code
}

func complain(format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "roottest: "+format+"\n", args...)
	return 1
}
