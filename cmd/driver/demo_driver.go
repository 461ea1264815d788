package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
)

// sandbox is a throw-away directory with everything that a driver needs.
type sandbox struct {
	dir    string
	client *orchestrator.Client
	stop   context.CancelFunc
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
	s.stop = func() { _ = proc.Signal(syscall.SIGTERM) } // an ended process is what is wanted
	s.client, err = orchestrator.Dial(ctx, s.socket(), s.kubelet())
	return err
}

func (s *sandbox) log() string { return filepath.Join(s.dir, "driver.log") }

// shutdown stops the driver and waits for it to drain.
func (s *sandbox) shutdown() error {
	if s.stop == nil {
		return nil
	}
	var errs []error
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	s.stop()
	s.stop = nil
	return errors.Join(append(errs, <-s.ended)...)
}

// remove takes away the pool, with all mounts and loops that the demo may have
// left if it failed, and the directory.
func (s *sandbox) remove(ctx context.Context) error {
	root, err := mount.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	mounts, err := mount.List()
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- { // newest first: what is on top goes first
		if rel, err := filepath.Rel(s.dir, mounts[i].Path); err == nil && filepath.IsLocal(rel) {
			if err := root.Unmount(ctx, mounts[i].Path); err != nil {
				return err
			}
		}
	}
	if err := s.checkLoopsGone(); err != nil {
		return err
	}
	return os.RemoveAll(s.dir)
}

// checkLoopsGone waits a moment for the loop devices in the sandbox to follow
// their mounts.
func (s *sandbox) checkLoopsGone() error {
	image := filepath.Join(s.pools(), local.ImageFile)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		loops, err := loop.List()
		if err != nil {
			return err
		}
		left := ""
		for _, l := range loops {
			if rel, err := filepath.Rel(s.dir, l.BackingPath); err == nil && filepath.IsLocal(rel) {
				left = fmt.Sprintf("/dev/loop%d on %s", l.Index, l.BackingPath)
			}
		}
		if left == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is still attached; the pool image %s stays until it is detached (losetup -d)", left, image)
		}
	}
}

// ignoreInterrupts lets cleaning up finish when the user is impatient.
func ignoreInterrupts() { signal.Ignore(syscall.SIGINT, syscall.SIGTERM) }
