package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	maxStdout = 4 << 20
	maxStderr = 64 << 10

	// pipeDelay is how long a program's descendants may hold its output open
	// after it ended.
	pipeDelay = 500 * time.Millisecond
	// killDelay is how long a killed program may take to die before the caller
	// gets its answer without it: one that waits for a disk cannot be killed.
	killDelay = 3 * time.Second
)

// systemPath is searched after the PATH of this process, which for an
// unprivileged user does not have the sbin directories.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Runner runs one program.
type Runner interface {
	// Run runs argv[0], found in PATH unless it is an absolute path, and returns
	// what it printed to its standard output, also when it fails. The error is an
	// *Error; it wraps the context's error if that is what ended the program.
	Run(ctx context.Context, argv ...string) (stdout []byte, err error)

	// RunToEnd is Run for a program that changes target in place, and would leave
	// it broken if it were killed: it never is. When ctx ends, the caller gets an
	// error that wraps ErrRunning and the context's error, and the program goes on.
	// There is one such program at a time for each name of a target: the next one
	// waits for it, as long as its ctx lets it.
	//
	// The program has target open until it ends. target stays the caller's.
	RunToEnd(ctx context.Context, target *os.File, argv ...string) (stdout []byte, err error)
}

// Exec is the Runner that runs real programs.
type Exec struct {
	path string
	work work
}

// New reads PATH once; it starts nothing.
func New() *Exec {
	path := systemPath
	if p := os.Getenv("PATH"); p != "" {
		path = p + ":" + systemPath
	}
	return &Exec{path: path}
}

// Run implements Runner. The program gets its own process group, PATH and
// LC_ALL=C as its whole environment, / as its working directory and an empty
// standard input. When ctx ends the group is killed. A program that the kernel
// cannot kill (it waits for a disk) is left behind after a few seconds and the
// error says so. More than 4 MiB of output is an error.
//
// Whoever kills this process alone leaves the program behind.
func (e *Exec) Run(ctx context.Context, argv ...string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, &Error{Argv: argv, ExitCode: -1, Err: err}
	}
	program, err := e.prepare(ctx, argv)
	if err != nil {
		return fail(err)
	}

	out, errOut := &head{max: maxStdout}, &tail{max: maxStderr}
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	cmd.Env, cmd.Dir = e.environment(), "/"
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = pipeDelay
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	if err := cmd.Start(); err != nil {
		return fail(err)
	}

	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	err, alive := await(ctx, ended)
	if alive {
		return out.bytes(), &Error{Argv: argv, ExitCode: -1, Stderr: errOut.text(), Err: fmt.Errorf(
			"%w, and process %d could not be killed within %s: it probably waits for a disk that does not answer", ctx.Err(), cmd.Process.Pid, killDelay)}
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		// The program itself succeeded; a descendant still holds its output and
		// would otherwise go on unsupervised.
		_ = killGroup(cmd.Process.Pid)
		err = nil
	}
	if err == nil && out.overflowed() {
		err = fmt.Errorf("printed more than %d bytes", maxStdout)
	}
	if err == nil {
		return out.bytes(), nil
	}
	failure := &Error{Argv: argv, ExitCode: cmd.ProcessState.ExitCode(), Stderr: errOut.text(), Err: err}
	if ctxErr := ctx.Err(); ctxErr != nil && failure.ExitCode == -1 {
		failure.Err = fmt.Errorf("killed: %w", ctxErr)
	}
	return out.bytes(), failure
}

// await waits for the end of a program, but not for ever once ctx has ended.
func await(ctx context.Context, ended <-chan error) (err error, alive bool) {
	select {
	case err := <-ended:
		return err, false
	case <-ctx.Done():
	}
	giveUp := time.NewTimer(killDelay)
	defer giveUp.Stop()
	select {
	case err := <-ended:
		return err, false
	case <-giveUp.C:
		return nil, true
	}
}

// killGroup may be called after the program itself was waited for, when its number
// is free for a new process. Not so if there is anybody to kill: the kernel does
// not give away a number that a group still has (kernel/pid.c, __change_pid). If
// the group is empty, ESRCH is certain unless the numbers, which are given out in
// order, went once around within pipeDelay, and to a new leader of a group just
// then.
func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// prepare finds the program of argv, unless it is not to be started at all.
func (e *Exec) prepare(ctx context.Context, argv []string) (program string, err error) {
	if len(argv) == 0 || argv[0] == "" {
		return "", errors.New("no program was named")
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return e.find(argv[0])
}

func (e *Exec) environment() []string { return []string{"PATH=" + e.path, "LC_ALL=C"} }

func (e *Exec) find(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	if !strings.Contains(name, "/") {
		for dir := range strings.SplitSeq(e.path, ":") {
			program := filepath.Join(dir, name)
			if st, err := os.Stat(program); filepath.IsAbs(program) && err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return program, nil
			}
		}
	}
	if pkg := debianPackage(name); pkg != "" {
		return "", fmt.Errorf("%w: %s is not installed: install the package %s (Debian: apt-get install %s)", exec.ErrNotFound, name, pkg, pkg)
	}
	return "", fmt.Errorf("%w: %s is not in PATH %s", exec.ErrNotFound, name, e.path)
}

func debianPackage(program string) string {
	switch program {
	case "mkfs.ext4", "mke2fs", "e2fsck", "resize2fs", "tune2fs", "dumpe2fs":
		return "e2fsprogs"
	case "mkfs.xfs", "xfs_repair", "xfs_db", "xfs_io", "xfs_growfs":
		return "xfsprogs"
	case "mkfs.btrfs", "btrfs":
		return "btrfs-progs"
	}
	return ""
}
