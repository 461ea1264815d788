package command_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/holdfast-csi/holdfast/pkg/command"
)

func TestMain(m *testing.M) {
	if mark := os.Getenv(startAndExitEnv); mark != "" {
		startAndExit(mark)
	}
	goleak.VerifyTestMain(m)
}

func TestProgramGetsOnlyItsArgumentsAndACleanEnvironment(t *testing.T) {
	t.Setenv("HOLDFAST_SECRET", "must not be seen")
	r := command.New()
	out, err := r.Run(t.Context(), "sh", "-c", `env | cut -d= -f1 | sort | tr '\n' ' '; cat; echo "$1" "$LC_ALL"; pwd`, "sh", "a b; $(id)")
	if err != nil {
		t.Fatal(err)
	}
	// dash sets PWD by itself.
	want := "LC_ALL PATH PWD a b; $(id) C\n/\n"
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestFailureCarriesExitCodeAndOutput(t *testing.T) {
	out, err := command.New().Run(t.Context(), "sh", "-c", "echo out; echo first >&2; echo second >&2; exit 7")
	var failure *command.Error
	if !errors.As(err, &failure) {
		t.Fatalf("Run = %v, want a *command.Error", err)
	}
	if string(out) != "out\n" || failure.ExitCode != 7 || failure.Stderr != "first\nsecond\n" || failure.Argv[0] != "sh" {
		t.Errorf("out %q, error %+v", out, failure)
	}
	if text := err.Error(); !strings.Contains(text, "exit status 7: first; second") {
		t.Errorf("Error() = %q", text)
	}
	if exit := new(exec.ExitError); !errors.As(err, &exit) {
		t.Error("the cause is lost")
	}
}

func TestMissingProgramNamesThePackageToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for program, want := range map[string]string{"no-such-program": "not in PATH", "": "no program", "./sh": "not in PATH", "../bin/sh": "not in PATH"} {
		_, err := command.New().Run(t.Context(), program)
		var failure *command.Error
		if !errors.As(err, &failure) || failure.ExitCode != -1 || !strings.Contains(err.Error(), want) {
			t.Errorf("Run(%q) = %v, want %q", program, err, want)
		}
	}
	if _, err := command.New().Run(t.Context(), "no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Run = %v, want exec.ErrNotFound", err)
	}
	if _, err := command.New().Run(t.Context()); err == nil {
		t.Error("no argv succeeded")
	}
}

func TestWholeProcessGroupDiesWithTheContext(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		waitFor(t, func() bool { b, err := os.ReadFile(pidFile); return err == nil && len(b) > 1 })
		cancel()
	}()
	start := time.Now()
	_, err := command.New().Run(ctx, "sh", "-c", `sleep 100 & echo $! > "$1"; wait`, "sh", pidFile)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want Canceled", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Run took %s", took)
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return !running(pid) })
}

// running reports whether a process runs; one that has ended and that nobody has
// collected does not.
func running(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return syscall.Kill(pid, 0) == nil
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(state, "Z")
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("waited in vain")
			return
		}
	}
}

func TestDescendantThatHoldsTheOutputDoesNotHang(t *testing.T) {
	start := time.Now()
	out, err := command.New().Run(t.Context(), "sh", "-c", "sleep 100 & echo $!")
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Run took %s", took)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return !running(pid) })
}

func TestOutputIsBounded(t *testing.T) {
	out, err := command.New().Run(t.Context(), "sh", "-c", "head -c 20000000 /dev/zero")
	if err == nil || len(out) > 4<<20 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	_, err = command.New().Run(t.Context(), "sh", "-c", "head -c 20000000 /dev/zero >&2; echo the end >&2; exit 1")
	var failure *command.Error
	if !errors.As(err, &failure) || len(failure.Stderr) > 64<<10 || !strings.HasSuffix(failure.Stderr, "the end\n") {
		t.Errorf("%d bytes of standard error", len(failure.Stderr))
	}
}

func TestNothingStartsWithAnEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mark := filepath.Join(t.TempDir(), "mark")
	if _, err := command.New().Run(ctx, "touch", mark); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want Canceled", err)
	}
	if _, err := os.Stat(mark); !os.IsNotExist(err) {
		t.Error("it ran")
	}
}

func TestToolsOfTheSystemAreFoundWithoutTheirDirectoriesInPATH(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	out, err := command.New().Run(t.Context(), "true")
	if err != nil || len(out) != 0 {
		t.Errorf("Run = %q, %v", out, err)
	}
}
