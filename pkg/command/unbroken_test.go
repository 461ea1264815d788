package command_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/command"
)

func newTarget(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestProgramIsNeverBrokenOffHalfWay(t *testing.T) {
	r, target := command.New(), newTarget(t, "disk")
	started, finished := target.Name()+".started", target.Name()+".finished"
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		waitFor(t, func() bool { return exists(started) })
		cancel()
	}()
	_, err := r.RunToEnd(ctx, target, "sh", "-c", `: >"$1"; until [ -e "$1.go" ]; do sleep 0.02; done; echo on; echo on >&2; : >"$2"`, "sh", started, finished)
	if !errors.Is(err, command.ErrRunning) || !errors.Is(err, context.Canceled) {
		t.Errorf("RunToEnd = %v, want ErrRunning and Canceled", err)
	}
	if exists(finished) {
		t.Fatal("it had finished, so this test shows nothing")
	}
	// The next one on the same target waits for it, one on another does not.
	if _, err := r.RunToEnd(t.Context(), newTarget(t, "other"), "test", "!", "-e", finished); err != nil {
		t.Errorf("beside it: %v", err)
	}
	if err := os.WriteFile(started+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RunToEnd(t.Context(), target, "test", "-e", finished); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func TestWaitingForAnEarlierProgramObeysTheContext(t *testing.T) {
	r, target := command.New(), newTarget(t, "disk")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	finished, never := target.Name()+".finished", target.Name()+".never"
	for _, argv := range [][]string{{"sh", "-c", `until [ -e "$1.go" ]; do sleep 0.02; done; : >"$1"`, "sh", finished}, {"touch", never}} {
		second, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if argv[0] == "sh" {
			second = ctx
		}
		if _, err := r.RunToEnd(second, target, argv...); !errors.Is(err, command.ErrRunning) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("RunToEnd(%v) = %v, want ErrRunning and DeadlineExceeded", argv, err)
		}
	}
	if err := r.Drain(ctx); !errors.Is(err, command.ErrRunning) || !strings.Contains(err.Error(), target.Name()) {
		t.Errorf("Drain = %v, want ErrRunning with %s", err, target.Name())
	}
	if err := os.WriteFile(finished+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Drain(t.Context()); err != nil || !exists(finished) {
		t.Errorf("Drain = %v before the program had finished", err)
	}
	if exists(never) {
		t.Error("the second program ran although nobody waited any more")
	}
}

func TestProgramThatRunsToItsEndSaysHowItWent(t *testing.T) {
	r, target := command.New(), newTarget(t, "disk")
	out, err := r.RunToEnd(t.Context(), target, "sh", "-c", `readlink /proc/self/fd/3; env | cut -d= -f1 | sort | tr '\n' ' '; cat; pwd`)
	if want := target.Name() + "\nLC_ALL PATH PWD /\n"; err != nil || string(out) != want {
		t.Errorf("RunToEnd = %q, %v, want %q", out, err, want)
	}
	out, err = r.RunToEnd(t.Context(), target, "sh", "-c", "echo out; echo first >&2; echo second >&2; exit 4")
	var failure *command.Error
	if !errors.As(err, &failure) || string(out) != "out\n" || failure.ExitCode != 4 || failure.Stderr != "first\nsecond\n" {
		t.Errorf("RunToEnd = %q, %+v", out, err)
	}
	// What does not fit is lost; it is no reason to take a success for a failure.
	out, err = r.RunToEnd(t.Context(), target, "sh", "-c", "head -c 6000000 /dev/zero 2>/dev/null; true")
	if err != nil || len(out) > 4<<20 || len(bytes.Trim(out, "\x00")) > 0 {
		t.Errorf("RunToEnd = %d bytes, %v", len(out), err)
	}
	if _, err := r.RunToEnd(t.Context(), target, "no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("RunToEnd = %v, want exec.ErrNotFound", err)
	}
	if _, err := r.RunToEnd(t.Context(), target, "/dev/null"); !errors.As(err, &failure) || failure.ExitCode != -1 {
		t.Errorf("RunToEnd of no program = %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.RunToEnd(ended, target, "rm", target.Name()); !errors.Is(err, context.Canceled) || errors.Is(err, command.ErrRunning) || !exists(target.Name()) {
		t.Errorf("RunToEnd with an ended context = %v, want Canceled and nothing started", err)
	}
}

const startAndExitEnv = "HOLDFAST_START_AND_EXIT"

// startAndExit is a driver that goes away while a program runs. What the program
// prints after that would end it, if it went to a pipe.
func startAndExit(mark string) {
	target, err := os.Create(mark + ".target")
	if err != nil {
		os.Exit(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	const script = `until [ -e "$1.gone" ]; do sleep 0.02; done; head -c 1000000 /dev/zero && echo on >&2 && : >"$1"`
	_, err = command.New().RunToEnd(ctx, target, "sh", "-c", script, "sh", mark)
	if !errors.Is(err, command.ErrRunning) {
		os.Exit(2)
	}
	os.Exit(0)
}

func TestProgramGoesOnWhenTheDriverIsGone(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	driver := exec.Command(os.Args[0])
	driver.Env = append(os.Environ(), startAndExitEnv+"="+mark)
	out, err := driver.CombinedOutput()
	if werr := os.WriteFile(mark+".gone", nil, 0o600); werr != nil {
		t.Fatal(werr)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	waitFor(t, func() bool { return exists(mark) })
}
