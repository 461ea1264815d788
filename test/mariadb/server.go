// Package mariadb runs a real MariaDB as a pod would: its own instance, on a data
// directory in a volume, with load from sysbench. The tests and the benchmarks see
// through it what a database makes of a volume.
//
// It promises an instance that nobody else on the machine meets: no network, a
// socket in a directory of its own, and no configuration but what it is given; and
// durable commits (innodb_flush_log_at_trx_commit=1). It asserts nothing.
package mariadb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Programs are what must be installed: Debian's mariadb-server-core,
// mariadb-client-core and sysbench.
var Programs = []string{"mariadbd", "mariadb-install-db", "mariadb", "sysbench"}

// Missing are the programs that are not installed.
func Missing() []string {
	var out []string
	for _, p := range Programs {
		if _, err := exec.LookPath(p); err != nil {
			out = append(out, p)
		}
	}
	return out
}

// Database is the name of the database that an instance is used for.
const Database = "holdfast"

// startTimeout bounds the start of a server, crash recovery included.
const startTimeout = 2 * time.Minute

// Install makes an empty data directory dir.
func Install(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	return run(exec.CommandContext(ctx, "mariadb-install-db", "--no-defaults", "--datadir="+dir, "--user=root",
		"--auth-root-authentication-method=normal", "--skip-test-db"))
}

// run runs a program; its error has the end of what the program said.
func run(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Args[0], err, tail(out))
	}
	return nil
}

func tail(out []byte) string {
	const most = 800
	return strings.TrimSpace(string(out[max(0, len(out)-most):]))
}

// Config says how a server is run.
type Config struct {
	// Dir is the data directory.
	Dir string
	// Options are more of mariadbd's, such as "--innodb-buffer-pool-size=512M".
	Options []string
}

// Server is a running instance. Stop or Kill ends it.
type Server struct {
	socket string
	cmd    *exec.Cmd
	log    *output
	done   chan struct{}
	ended  error // once done is closed
}

// Start starts a server and waits until it answers.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	// A directory of its own: the path of a socket must be short (unix(7)).
	run, err := os.MkdirTemp("", "m")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the socket: %w", err)
	}
	s := &Server{socket: filepath.Join(run, "s"), log: &output{}, done: make(chan struct{})}
	args := append([]string{"--no-defaults", "--user=root", "--datadir=" + cfg.Dir, "--socket=" + s.socket, "--skip-networking",
		"--pid-file=" + filepath.Join(run, "pid"), "--innodb-flush-log-at-trx-commit=1", "--innodb-flush-method=O_DIRECT"}, cfg.Options...)
	s.cmd = exec.Command("mariadbd", args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start mariadbd: %w", err), os.RemoveAll(run))
	}
	go func() {
		defer close(s.done)
		s.ended = s.cmd.Wait()
		if err := os.RemoveAll(run); s.ended == nil {
			s.ended = err
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		_, err := s.Query(ctx, "SELECT 1")
		if err == nil {
			return s, nil
		}
		select {
		case <-s.done:
			return nil, fmt.Errorf("mariadbd ended: %w: %s", s.ended, s.Log())
		case <-ctx.Done():
			s.Kill()
			return nil, fmt.Errorf("wait for mariadbd: %w: %w: %s", context.Cause(ctx), err, s.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Query runs statements in the database, if it exists, and returns what they
// answer: rows as lines, columns by tabs.
func (s *Server) Query(ctx context.Context, statements string) (string, error) {
	cmd := exec.CommandContext(ctx, "mariadb", append(s.client(), "--batch", "--skip-column-names", "--execute="+statements)...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("mariadb: %w: %s", err, tail(complaint.Bytes()))
	}
	return out.String(), nil
}

func (s *Server) client() []string {
	return []string{"--no-defaults", "--socket=" + s.socket, "--user=root"}
}

// Stop asks the server to end, and waits until it has.
func (s *Server) Stop() error {
	// It may have ended already, which the wait then tells.
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(startTimeout):
		s.Kill()
		return fmt.Errorf("mariadbd did not stop in %s: %s", startTimeout, s.Log())
	}
	if s.ended != nil {
		return fmt.Errorf("mariadbd ended: %w: %s", s.ended, s.Log())
	}
	return nil
}

// Kill ends the server as a crash does, and waits until it is gone. One that has
// ended is success.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may be gone already
	<-s.done
}

// Log is the end of what the server has said.
func (s *Server) Log() string { return tail(s.log.bytes()) }

// Recovered reports whether the server found a log to replay when it started.
func (s *Server) Recovered() bool {
	return bytes.Contains(s.log.bytes(), []byte("Starting crash recovery"))
}

// output is what a program says, while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf.Bytes())
}
