// Process needs a program without C, as the driver is: with C in it nobody knows all
// threads. The race detector is C, so this is tested in the other passes.
//go:build !cgo

package confine

import (
	"context"
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
	"unsafe"

	"golang.org/x/sys/unix"
)

// confined is the variable in the environment of a process that confines itself and
// says what it still can.
const confined = "HOLDFAST_TEST_CONFINED"

func TestMain(m *testing.M) {
	if what := os.Getenv(confined); what != "" {
		tried := try
		if what == "2" {
			tried = tryWithAll
		}
		if err := tried(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestAConfinedProcessCanDoItsWorkAndNothingElse(t *testing.T) { inAChild(t, "1") }

// The driver keeps CAP_SYS_ADMIN, so that for most of it the filter is the only bar.
func TestTheFilterAloneStopsWhatACapabilityAllows(t *testing.T) { inAChild(t, "2") }

// inAChild runs this program again, as one that confines itself.
func inAChild(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("there are no capabilities to take away: it needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), confined+"="+what)
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

// tryWithAll keeps all capabilities that there are, and tries what they allow.
func tryWithAll() error {
	last, err := lastCapability()
	if err != nil {
		return err
	}
	var all []int
	for c := range last + 1 {
		all = append(all, c)
	}
	dir, err := os.MkdirTemp("", "confined")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	defer self.Close()
	if err := Process(all...); err != nil {
		return err
	}
	zeros := make([]byte, 256)
	at := uintptr(unsafe.Pointer(&zeros[0]))
	call := func(trap uintptr, args ...uintptr) error {
		args = append(args, make([]uintptr, 6)...)
		if _, _, errno := unix.Syscall6(trap, args[0], args[1], args[2], args[3], args[4], args[5]); errno != 0 {
			return errno
		}
		return nil
	}
	var errs []error
	want := func(what string, err, expected error) {
		if !errors.Is(err, expected) {
			errs = append(errs, fmt.Errorf("%s: %v, want %w", what, err, expected))
		}
	}
	for what, err := range map[string]error{
		"unshare":           unix.Unshare(unix.CLONE_FS),
		"setns":             unix.Setns(int(self.Fd()), unix.CLONE_NEWNS),
		"chroot":            unix.Chroot("/"),
		"mknodat":           unix.Mknodat(unix.AT_FDCWD, dir+"/null", unix.S_IFCHR|0o600, 0x103),
		"bpf":               call(unix.SYS_BPF, 0, at, 128),
		"trace":             call(unix.SYS_PTRACE, 0xffff, uintptr(os.Getpid())), // no such request
		"look into memory":  call(unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid()), at, 0, at, 0),
		"open by handle":    call(unix.SYS_OPEN_BY_HANDLE_AT, self.Fd(), at, 0),
		"a ring":            call(unix.SYS_IO_URING_SETUP, 1, at),
		"perf":              call(unix.SYS_PERF_EVENT_OPEN, at, 0, ^uintptr(0), ^uintptr(0), 0),
		"a module":          call(unix.SYS_FINIT_MODULE, self.Fd(), at, 0),
		"a key":             call(unix.SYS_KEYCTL, 0, 0, 0),
		"a personality":     call(unix.SYS_PERSONALITY, 0xffffffff),
		"look at the clock": call(unix.SYS_ADJTIMEX, at),
		"exec":              unix.Exec(dir+"/none", nil, nil),
		"a call of x32":     call(x32 | unix.SYS_GETPID),
		"a mount namespace": clone(unix.CLONE_NEWNS),
		"a user namespace":  clone(unix.CLONE_NEWUSER),
		"two of them":       clone(unix.CLONE_NEWUSER | unix.CLONE_NEWPID),
	} {
		want(what, err, unix.EPERM)
	}
	want("clone3", call(unix.SYS_CLONE3, at, 0), unix.ENOSYS)
	// A process without any, and threads, are made as before.
	want("a process", clone(0), nil)
	started := make(chan struct{})
	for range 8 {
		go func() {
			runtime.LockOSThread()
			started <- struct{}{}
			time.Sleep(time.Hour)
		}()
	}
	for range 8 {
		select {
		case <-started:
		case <-time.After(10 * time.Second):
			return errors.Join(append(errs, errors.New("there are no new threads"))...)
		}
	}
	// What the capabilities allow and nobody forbids, or this test would prove nothing.
	want("mount", unix.Mount("tmpfs", dir, "tmpfs", 0, ""), nil)
	want("unmount", unix.Unmount(dir, 0), nil)
	return errors.Join(errs...)
}

// clone makes a process with these flags, which ends at once.
func clone(flags uintptr) error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		for {
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
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
