package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
)

// sandbox is a throw-away directory with everything that a driver needs.
type sandbox struct {
	dir    string
	client *orchestrator.Client
	driver *os.Process // nil if it is not running
	ended  chan error
}

func (s *sandbox) socket() string  { return filepath.Join(s.dir, "csi.sock") }
func (s *sandbox) kubelet() string { return filepath.Join(s.dir, "kubelet") }
func (s *sandbox) pools() string   { return filepath.Join(s.dir, "pools") }

// newSandbox makes the directory in parent.
func newSandbox(parent string) (*sandbox, error) {
	dir, err := os.MkdirTemp(parent, "holdfast-demo-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the demo: %w", err)
	}
	s := &sandbox{dir: dir}
	return s, os.Mkdir(s.kubelet(), 0o755)
}

// start serves CSI on the sandbox's socket and connects to it. The log goes to a
// file in the sandbox.
func (s *sandbox) start(ctx context.Context, poolSize string) error {
	log, err := os.Create(s.log())
	if err != nil {
		return fmt.Errorf("make the driver's log: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	// The driver is a process of its own, as in real life; the demo speaks to it
	// through its socket alone. Ctrl-C is for the demo, which then stops it.
	proc, err := os.StartProcess(self, []string{
		self, "serve", "--endpoint=unix://" + s.socket(), "--node-id=demo", "--kubelet-dir=" + s.kubelet(),
		"--state-dir=" + filepath.Join(s.dir, "state"), "--pool=" + s.pools(), "--pool-size=" + poolSize, "--host-reserve=1",
	}, &os.ProcAttr{Files: []*os.File{nil, log, log}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}})
	if cerr := log.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("start the driver: %w", err)
	}
	s.ended = make(chan error, 1)
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the driver did not get ready in a minute"))
	defer cancel()
	ctx, failed := context.WithCancelCause(ctx)
	go func() {
		state, err := proc.Wait()
		if err == nil && !state.Success() {
			err = fmt.Errorf("the driver ended: %s", state)
		}
		s.ended <- err
		failed(fmt.Errorf("the driver ended before it was ready: %w", err))
	}()
	s.driver = proc
	s.client, err = orchestrator.Dial(ctx, s.socket(), s.kubelet())
	return err
}

func (s *sandbox) log() string { return filepath.Join(s.dir, "driver.log") }

// shutdownWait is longer than a driver takes to drain.
const shutdownWait = 40 * time.Second

// shutdown stops the driver and waits for it to drain; one that does not is
// killed.
func (s *sandbox) shutdown() error {
	if s.driver == nil {
		return nil
	}
	var errs []error
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	_ = s.driver.Signal(syscall.SIGTERM) // an ended process is what is wanted
	select {
	case err := <-s.ended:
		errs = append(errs, err)
	case <-time.After(shutdownWait):
		errs = append(errs, fmt.Errorf("the driver did not stop in %s and was killed", shutdownWait), s.driver.Kill(), <-s.ended)
	}
	s.driver = nil
	return errors.Join(errs...)
}

// remove takes away the pool, with all mounts and loops that the demo may have
// left if it failed, and the directory.
func (s *sandbox) remove(ctx context.Context) error {
	if err := teardown.Below(ctx, s.dir); err != nil {
		return fmt.Errorf("clean up %s: %w; unmount and detach what is there, then remove it", s.dir, err)
	}
	return os.RemoveAll(s.dir)
}

// ignoreInterrupts lets cleaning up finish when the user is impatient.
func ignoreInterrupts() { signal.Ignore(syscall.SIGINT, syscall.SIGTERM) }

// insideEnv tells the demo that it is in its own mount namespace.
const insideEnv = "HOLDFAST_DEMO_INSIDE"

// runInside runs this command again in a mount namespace of its own: nothing that
// starts on the machine meanwhile copies the demo's mounts and keeps them, and
// whatever goes wrong, none stays.
func runInside() error {
	runtime.LockOSThread() // the child dies with the thread that started it
	defer runtime.UnlockOSThread()
	ignoreInterrupts() // they reach the child, which cleans up
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), insideEnv+"=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		// Go makes / recursively private in the new namespace.
		Sys: &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM},
	})
	if err != nil {
		return fmt.Errorf("run the demo in its own mount namespace: %w", err)
	}
	state, err := child.Wait()
	if err == nil && !state.Success() {
		err = errDemoFailed
	}
	return err
}

// errDemoFailed says no more than the demo itself has said.
var errDemoFailed = errors.New("the demo failed")
