package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// ErrRunning says that the context ended while a program of RunToEnd was running,
// which goes on.
var ErrRunning = errors.New("a program is running, and goes on")

// RunToEnd implements Runner. The program gets what those of Run get, and target
// as one more open file. What it prints goes to memory files instead of pipes, of
// at most 4 MiB each: nobody needs to be there to read, so it also goes on if this
// process ends. Only a signal of somebody else ends it early; the kernel sends one
// to whatever is left in a PID namespace when its first process ends, hence Drain.
func (e *Exec) RunToEnd(ctx context.Context, target *os.File, argv ...string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, &Error{Argv: argv, ExitCode: -1, Err: err}
	}
	program, err := e.prepare(ctx, argv)
	if err != nil {
		return fail(err)
	}
	end, err := e.work.begin(ctx, target.Name())
	if err != nil {
		return fail(err)
	}
	p, err := e.start(program, target, argv)
	if err != nil {
		end()
		return fail(err)
	}
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := p.wait()
		end()
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		return fail(fmt.Errorf("%w as process %d: %w", ErrRunning, p.cmd.Process.Pid, ctx.Err()))
	}
}

// Drain waits until no program of RunToEnd is running, or until ctx ends: then it
// is ErrRunning, which names what they work on. A process that is the first of its
// PID namespace calls it before it exits: its end is theirs (man 7
// pid_namespaces).
func (e *Exec) Drain(ctx context.Context) error {
	for {
		names, one := e.work.now()
		if one == nil {
			return nil
		}
		select {
		case <-one:
		case <-ctx.Done():
			return fmt.Errorf("%w: on %s: %w", ErrRunning, strings.Join(names, ", "), ctx.Err())
		}
	}
}

// unbroken is a program that nobody ends.
type unbroken struct {
	argv        []string
	cmd         *exec.Cmd
	out, errOut *os.File
}

func (e *Exec) start(program string, target *os.File, argv []string) (*unbroken, error) {
	out, err := newMemoryFile("stdout")
	if err != nil {
		return nil, err
	}
	errOut, err := newMemoryFile("stderr")
	if err != nil {
		out.Close()
		return nil, err
	}
	p := &unbroken{argv: argv, cmd: exec.Command(program, argv[1:]...), out: out, errOut: errOut}
	p.cmd.Env, p.cmd.Dir = e.environment(), "/"
	p.cmd.Stdout, p.cmd.Stderr = out, errOut
	// While the program has it open, the number of a loop device cannot pass to
	// another volume, not even before the program has opened it by its path.
	p.cmd.ExtraFiles = []*os.File{target}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *unbroken) wait() ([]byte, error) {
	defer p.close()
	err := p.cmd.Wait()
	out := printed(p.out)
	if err == nil {
		return out, nil
	}
	said := printed(p.errOut)
	said = said[max(0, len(said)-maxStderr):]
	return out, &Error{Argv: p.argv, ExitCode: p.cmd.ProcessState.ExitCode(), Stderr: string(said), Err: err}
}

func (p *unbroken) close() {
	p.out.Close()
	p.errOut.Close()
}

// work knows what is being worked on: one program at a time on each file.
type work struct {
	mu sync.Mutex
	// ends is closed when the program that works on the file of this name ends.
	ends map[string]chan struct{}
}

// begin waits until nobody works on the file. The caller calls end.
func (w *work) begin(ctx context.Context, name string) (end func(), err error) {
	for {
		mine := make(chan struct{})
		other := w.claim(name, mine)
		if other == nil {
			return func() { w.release(name, mine) }, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: an earlier one, on %s: %w", ErrRunning, name, ctx.Err())
		}
	}
}

// claim returns nil if the file is now the caller's, else the end of who has it.
func (w *work) claim(name string, mine chan struct{}) (other <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if end, ok := w.ends[name]; ok {
		return end
	}
	if w.ends == nil {
		w.ends = map[string]chan struct{}{}
	}
	w.ends[name] = mine
	return nil
}

func (w *work) release(name string, mine chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ends, name)
	close(mine)
}

// now is what is worked on, and the end of some of it; nil if there is nothing.
func (w *work) now() (names []string, one <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, end := range w.ends {
		names, one = append(names, name), end
	}
	return names, one
}
