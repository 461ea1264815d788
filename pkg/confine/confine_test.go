// Process needs a program without C, as the driver is: with C in it nobody knows all
// threads. The race detector is C, so this is tested in the other passes.
//go:build !cgo

package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// confined is the variable in the environment of a process that confines itself and
// says what it still can.
const confined = "HOLDFAST_TEST_CONFINED"

func TestMain(m *testing.M) {
	if os.Getenv(confined) != "" {
		if err := try(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestAConfinedProcessCanDoItsWorkAndNothingElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("there are no capabilities to take away: it needs root")
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), confined+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// try confines this process, with many threads in it, and tries what should work and
// what should not.
func try() error {
	// Threads that were there before, and wait in a system call meanwhile.
	for range 8 {
		go func() {
			runtime.LockOSThread()
			time.Sleep(time.Hour)
		}()
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	for range 4 {
		go func() {
			runtime.LockOSThread()
			var b [1]byte
			_, _ = syscall.Read(int(r.Fd()), b[:])
		}()
	}
	time.Sleep(50 * time.Millisecond)
	dir, err := os.MkdirTemp("", "confined")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := Process(unix.CAP_CHOWN); err != nil {
		return err
	}
	var errs []error
	file := filepath.Join(dir, "file")
	errs = append(errs, os.WriteFile(file, nil, 0o400), os.Chown(file, 0, 4321))
	for what, err := range map[string]error{
		"exec":          exec.Command("/bin/true").Run(),
		"unshare":       unix.Unshare(unix.CLONE_NEWNS),
		"chroot":        unix.Chroot(dir),
		"mknod":         unix.Mknodat(unix.AT_FDCWD, dir+"/null", unix.S_IFCHR|0o600, 0x103),
		"mount":         unix.Mount("tmpfs", dir, "tmpfs", 0, ""), // CAP_SYS_ADMIN was not asked for
		"trace":         unix.PtraceAttach(os.Getppid()),
		"set the clock": unix.Settimeofday(&unix.Timeval{Sec: 1}),
	} {
		if !errors.Is(err, unix.EPERM) {
			errs = append(errs, fmt.Errorf("%s: %w, want EPERM", what, err))
		}
	}
	// Its own file, which it may not write to: there is no CAP_DAC_OVERRIDE.
	if f, err := os.OpenFile(file, os.O_WRONLY, 0); err == nil {
		f.Close()
		errs = append(errs, errors.New("a file of mode 0400 was opened for writing"))
	}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	errs = append(errs, err)
	if len(tasks) < 10 {
		errs = append(errs, fmt.Errorf("only %d threads", len(tasks)))
	}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		for _, want := range []string{"CapPrm:\t0000000000000001\n", "CapEff:\t0000000000000001\n", "CapBnd:\t0000000000000001\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(string(text), want) {
				errs = append(errs, fmt.Errorf("%s has no %q:\n%s", path, want, text))
			}
		}
	}
	return errors.Join(errs...)
}

func TestTheFilterIsShortEnough(t *testing.T) {
	const most = 4096 // kernel, BPF_MAXINSNS
	if n := len(program(unix.AUDIT_ARCH_X86_64, Denied())); n > most || n < 2*len(Denied()) {
		t.Errorf("%d instructions", n)
	}
	seen := map[uint32]bool{}
	for _, c := range Denied() {
		if seen[c] {
			t.Errorf("system call %d is there twice", c)
		}
		seen[c] = true
	}
}
