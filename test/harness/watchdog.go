package harness

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Watchdog is a running driver watchdog.
type Watchdog struct {
	box  *Box
	cmd  *exec.Cmd
	log  *journal
	done chan struct{}
}

// inOwnNamespaces is the watchdog's container: what is mounted from now on is not
// seen in it, and it shares no process with the driver's.
var inOwnNamespaces = []string{"unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child"}

// StartWatchdog starts a watchdog for the box's drivers, in namespaces of its own,
// and waits until it watches. It ends with the test.
func (b *Box) StartWatchdog(freezeTimeout time.Duration) *Watchdog {
	b.t.Helper()
	binary, err := build()
	if err != nil {
		b.t.Fatal(err)
	}
	argv := append(append([]string{}, inOwnNamespaces...), binary, "watchdog", "--state-dir="+b.State(), "--freeze-timeout="+freezeTimeout.String())
	w := &Watchdog{box: b, cmd: exec.Command(argv[0], argv[1:]...), log: &journal{}, done: make(chan struct{})}
	w.cmd.Env = os.Environ()
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := w.cmd.StderrPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() {
		defer close(w.done)
		w.log.read(pipe)
		_ = w.cmd.Wait() // it is stopped by a signal
	}()
	b.t.Cleanup(w.stop)
	w.WaitLog("watching for filesystems", 10*time.Second)
	return w
}

func (w *Watchdog) stop() {
	// The group has ended already if the watchdog has.
	_ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-w.done:
	case <-time.After(10 * time.Second):
		w.box.t.Errorf("the watchdog did not stop:\n%s", w.Log())
		_ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL)
	}
}

// Log is what the watchdog has written so far.
func (w *Watchdog) Log() string { return strings.Join(w.log.all(), "\n") }

// WaitLog waits until the watchdog has said this.
func (w *Watchdog) WaitLog(words string, limit time.Duration) {
	w.box.t.Helper()
	for end := time.Now().Add(limit); !strings.Contains(w.Log(), words); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.box.t.Fatalf("the watchdog has not said %q in %s:\n%s", words, limit, w.Log())
		}
	}
}

// Group is the process group of the watchdog.
func (w *Watchdog) Group() int { return w.cmd.Process.Pid }
