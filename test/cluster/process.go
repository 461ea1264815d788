package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is a process that outlives the command which starts it. Its log is in
// logDir, what identifies it in a file below runDir.
type daemon struct {
	name string
	path string
	args []string
}

func (d daemon) pidFile() string { return filepath.Join(runDir, d.name+".pid") }

func (d daemon) logFile() string { return filepath.Join(logDir, d.name+".log") }

// identity is what distinguishes a process from a later one of the same number:
// its pid and the time it started, in clock ticks since boot (proc_pid_stat(5),
// field 22).
type identity struct{ pid, start int }

// start starts the daemon, unless it runs.
func (d daemon) start() error {
	if _, ok := d.running(); ok {
		return nil
	}
	log, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.path, d.args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What this process was given by its parent, a lock perhaps, is not the daemon's.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("start %s: it died at once; see %s: %w", d.name, d.logFile(), err)
	}
	line := fmt.Sprintf("%d %d\n", cmd.Process.Pid, started)
	// Nobody waits for it but the parent: one that ends while this process lives is
	// reaped here, so that it is seen to be gone.
	go func() { _ = cmd.Wait() }()
	if err := os.WriteFile(d.pidFile(), []byte(line), 0o644); err != nil {
		// Nobody would find it again.
		return errors.Join(fmt.Errorf("start %s: %w", d.name, err), cmd.Process.Kill())
	}
	return nil
}

// running finds the process that start made, if it lives.
func (d daemon) running() (identity, bool) {
	data, err := os.ReadFile(d.pidFile())
	if err != nil {
		return identity{}, false
	}
	var id identity
	if _, err := fmt.Sscan(string(data), &id.pid, &id.start); err != nil {
		return identity{}, false
	}
	return id, id.alive()
}

func (id identity) alive() bool {
	started, err := startTime(id.pid)
	return err == nil && started == id.start
}

// stop ends the daemon by SIGTERM and, if it does not obey for ten seconds, by
// SIGKILL.
func (d daemon) stop(ctx context.Context) error { return d.end(ctx, syscall.SIGTERM) }

// kill ends the daemon as the stop of a machine does.
func (d daemon) kill(ctx context.Context) error { return d.end(ctx, syscall.SIGKILL) }

func (d daemon) end(ctx context.Context, signal syscall.Signal) error {
	id, ok := d.running()
	if !ok {
		return nil
	}
	for _, s := range []syscall.Signal{signal, syscall.SIGKILL} {
		if err := syscall.Kill(id.pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end %s (pid %d): %w", d.name, id.pid, err)
		}
		if wait(ctx, 10*time.Second, func() bool { return !id.alive() }) == nil {
			return nil
		}
	}
	return fmt.Errorf("%s (pid %d) does not end", d.name, id.pid)
}

// startTime reads field 22 of /proc/PID/stat. A zombie counts as gone.
func startTime(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may have spaces.
	_, rest, ok := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: not understood", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.Atoi(fields[19])
}

// wait asks until done says yes.
func wait(ctx context.Context, limit time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s: %w", limit, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// tail is the end of a daemon's log, for an error.
func (d daemon) tail() string {
	data, err := os.ReadFile(d.logFile())
	if err != nil {
		return err.Error()
	}
	if len(data) > 3000 {
		data = data[len(data)-3000:]
	}
	return string(data)
}
