package local

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// fillEnv makes this binary a writer: manner and directory, with a colon between.
const fillEnv = "HOLDFAST_TEST_FILL"

// filler is a workload.Filler in this process or another one.
type filler interface {
	Files() (int, error)
	Stop() (int, error)
}

// startFill starts to fill a directory. Who writes through a mapping does it in a
// process of its own: a page fault that waits for a frozen filesystem holds the lock
// of the whole address space, and the engine of this process could not thaw.
func startFill(t *testing.T, dir string, manner workload.Manner) filler {
	t.Helper()
	if manner != workload.Mapped {
		return workload.StartFill(dir, manner)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fillEnv+"="+string(manner)+":"+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &farFiller{cmd: cmd, in: in, done: make(chan struct{})}
	go f.listen(out)
	return f
}

// fillAsTold is what the other process does until its standard input ends: it
// prints how many files there are, and its first error.
func fillAsTold(what string) {
	manner, dir, _ := strings.Cut(what, ":")
	f := workload.StartFill(dir, workload.Manner(manner))
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	for {
		select {
		case <-stop:
			n, err := f.Stop()
			report(n, err)
			os.Exit(0)
		case <-time.After(20 * time.Millisecond):
			report(f.Files())
		}
	}
}

func report(n int, err error) {
	if err != nil {
		fmt.Println(n, err)
		return
	}
	fmt.Println(n)
}

// farFiller is the other process.
type farFiller struct {
	cmd  *exec.Cmd
	in   io.Closer
	done chan struct{}

	mu    sync.Mutex
	files int
	err   error
}

func (f *farFiller) listen(out io.Reader) {
	defer close(f.done)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		count, text, failed := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(count)
		if err == nil && failed {
			err = errors.New(text)
		}
		f.mu.Lock()
		f.files = n
		if f.err == nil {
			f.err = err
		}
		f.mu.Unlock()
	}
}

func (f *farFiller) Files() (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files, f.err
}

func (f *farFiller) Stop() (int, error) {
	err := f.in.Close()
	<-f.done
	n, ferr := f.Files()
	return n, errors.Join(err, ferr, f.cmd.Wait())
}
