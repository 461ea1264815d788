// Package harness runs the driver as a process of its own, with everything it
// needs in a temporary directory, so that a test can stop it, kill it at a named
// step and start it again, and look at what stayed behind.
//
// It promises that the binary is the one that is shipped, but for the failpoints
// (build tag "failpoint"), and that a test which ends leaves no process, mount or
// loop device. It speaks to the driver only through its socket.
package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// startTimeout bounds how long a driver may take to be ready.
const startTimeout = time.Minute

// build makes the driver's binary once per test process.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-driver-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "driver")
	cmd := exec.Command("go", "build", "-tags", "failpoint", "-o", binary, "github.com/holdfast-csi/holdfast/cmd/driver")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the driver: %w\n%s", err, out)
	}
	return binary, nil
})

// Box is a directory with a pool image, kubelet's directory and the driver's
// state, which outlive any one driver.
type Box struct {
	t      testing.TB
	Dir    string
	socket string // not in Dir: its path must be short (unix(7): 107 bytes)
	// Flags are added to the command line of every driver that is started.
	Flags []string
	// Wrap is put in front of the command line, for instance unshare(1).
	Wrap []string
}

// Filesystems are those that a pool can be on.
func Filesystems() []string { return []string{"btrfs", "xfs"} }

// OnFilesystem is the flag of the driver that makes pools on a filesystem.
func OnFilesystem(fsType string) string { return "--pool-filesystem=" + fsType }

// OnEachFilesystem runs a test for pools on each filesystem, with the flag that
// makes them.
func OnEachFilesystem(t *testing.T, test func(t *testing.T, flag string)) {
	for _, fsType := range Filesystems() {
		t.Run("pool on "+fsType, func(t *testing.T) { test(t, OnFilesystem(fsType)) })
	}
}

// NewBox makes a Box with the pool "default" of this size and more flags of the
// driver. When the test ends, everything in it goes.
func NewBox(t testing.TB, poolSize volume.Bytes, flags ...string) *Box {
	t.Helper()
	roottest.Require(t)
	socketDir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	b := &Box{t: t, Dir: t.TempDir(), socket: filepath.Join(socketDir, "csi.sock")}
	for _, d := range []string{b.Kubelet(), b.Pools()} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.Flags = []string{"--pool=" + b.Pools(), fmt.Sprintf("--pool-size=%d", poolSize), "--host-reserve=1"}
	b.Flags = append(b.Flags, flags...)
	t.Cleanup(func() {
		if err := errors.Join(teardown.Below(context.Background(), b.Dir), os.RemoveAll(socketDir)); err != nil {
			t.Error(err)
		}
	})
	return b
}

// Kubelet is the directory that stands for /var/lib/kubelet.
func (b *Box) Kubelet() string { return filepath.Join(b.Dir, "kubelet") }

// Pools is the directory that has the pool image and its mount.
func (b *Box) Pools() string { return filepath.Join(b.Dir, "pools") }

// State is the driver's state directory.
func (b *Box) State() string { return filepath.Join(b.Dir, "state") }

// Socket is the path of the driver's CSI socket.
func (b *Box) Socket() string { return b.socket }

// Reboot takes all mounts and loops away. No driver may be running.
func (b *Box) Reboot() {
	b.t.Helper()
	if err := teardown.Below(context.Background(), b.Dir); err != nil {
		b.t.Fatal(err)
	}
}

// Driver is a running driver.
type Driver struct {
	*orchestrator.Client
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	log  *journal

	mu     sync.Mutex
	waited error // how it ended, once done is closed
}

// Start starts a driver and waits until it is ready.
func (b *Box) Start() *Driver {
	b.t.Helper()
	return b.StartWith("")
}

// StartWith starts a driver with a failpoint, such as
// "create-volume/renamed:2=kill", and waits until it is ready.
func (b *Box) StartWith(failpoint string) *Driver {
	b.t.Helper()
	d, err := b.TryStart(failpoint)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

// TryStart is StartWith for a driver that may not get ready.
func (b *Box) TryStart(failpoint string) (*Driver, error) {
	b.t.Helper()
	binary, err := build()
	if err != nil {
		return nil, err
	}
	argv := append([]string{}, b.Wrap...)
	argv = append(argv, binary, "serve", "--endpoint=unix://"+b.socket, "--node-id=node-1", "-v=2",
		"--kubelet-dir="+b.Kubelet(), "--state-dir="+b.State())
	argv = append(argv, b.Flags...)
	d := &Driver{t: b.t, done: make(chan struct{}), log: &journal{}}
	d.cmd = exec.Command(argv[0], argv[1:]...)
	d.cmd.Env = append(os.Environ(), "HOLDFAST_FAILPOINT="+failpoint)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := d.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go d.wait(pipe)
	b.t.Cleanup(d.Kill)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-d.done:
			ended(errors.New("the driver ended"))
		case <-ctx.Done():
		}
	}()
	d.Client, err = orchestrator.Dial(ctx, b.socket, b.Kubelet())
	if err != nil {
		d.Kill()
		return nil, fmt.Errorf("%w\n%s", err, d.Log())
	}
	return d, nil
}

func (d *Driver) wait(pipe io.Reader) {
	d.log.read(pipe)
	err := d.cmd.Wait()
	d.mu.Lock()
	d.waited = err
	d.mu.Unlock()
	close(d.done)
}

// PID is the process id of the driver, or of what it is wrapped in.
func (d *Driver) PID() int { return d.cmd.Process.Pid }

// Stop asks the driver to end, as Kubernetes does, and waits until it has.
func (d *Driver) Stop() {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Error(err)
	}
	// To the group: what the driver may be wrapped in does not pass signals on.
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.done:
	case <-time.After(time.Minute):
		d.t.Fatalf("the driver did not stop in a minute\n%s", d.Log())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waited != nil {
		d.t.Errorf("the driver ended with %v\n%s", d.waited, d.Log())
	}
}

// Kill ends the driver by SIGKILL and waits until it is gone. A driver that is
// gone already is success.
func (d *Driver) Kill() {
	if d.Client != nil {
		_ = d.Close() // the connection may be broken already
	}
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // it may be gone already
	<-d.done
}

// WaitKilled waits until a failpoint has killed the driver.
func (d *Driver) WaitKilled(timeout time.Duration) error {
	select {
	case <-d.done:
		return nil
	case <-time.After(timeout):
		return fmt.Errorf("the driver was not killed in %s\n%s", timeout, d.Log())
	}
}

// Log is what the driver has written so far.
func (d *Driver) Log() string { return strings.Join(d.log.all(), "\n") }

// Steps are the failpoints that the driver has met so far, in order.
func (d *Driver) Steps() []string {
	var out []string
	for _, line := range d.log.all() {
		if step, ok := strings.CutPrefix(line, "failpoint "); ok {
			out = append(out, step)
		}
	}
	return out
}

// journal is the lines of a log.
type journal struct {
	mu    sync.Mutex
	lines []string
}

// read adds what comes out of a pipe until its other end is closed.
func (j *journal) read(pipe io.Reader) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		j.add(lines.Text())
	}
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines...)
}
