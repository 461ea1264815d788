package mariadb

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Load is what sysbench's oltp_read_write does to a server.
type Load struct {
	Tables, Rows int // rows of each table
	Threads      int
	Rate         int // transactions that come in a second, at random times; 0: as many as the server takes
}

func (l Load) command(ctx context.Context, s *Server, what string, more ...string) *exec.Cmd {
	args := append([]string{"oltp_read_write", "--db-driver=mysql", "--mysql-socket=" + s.socket, "--mysql-user=root", "--mysql-db=" + Database,
		fmt.Sprintf("--tables=%d", l.Tables), fmt.Sprintf("--table-size=%d", l.Rows), fmt.Sprintf("--threads=%d", l.Threads)}, more...)
	return exec.CommandContext(ctx, "sysbench", append(args, what)...)
}

// Prepare makes the database and the tables of the load.
func (l Load) Prepare(ctx context.Context, s *Server) error {
	if _, err := s.Query(ctx, "CREATE DATABASE IF NOT EXISTS "+Database); err != nil {
		return err
	}
	return run(l.command(ctx, s, "prepare"))
}

// Second is what sysbench reports once a second.
type Second struct {
	At           time.Time // when it was reported: the end of the second
	Transactions float64   // in the second
	P95          time.Duration
	Errors       float64
}

// Run is a load that runs. Stop ends it.
type Run struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // once done is closed
	said *output

	mu      sync.Mutex
	seconds []Second
}

// Start starts the load; it ends by itself after limit.
func (l Load) Start(s *Server, limit time.Duration) (*Run, error) {
	r := &Run{done: make(chan struct{}), said: &output{}}
	r.cmd = l.command(context.Background(), s, "run", "--report-interval=1", fmt.Sprintf("--time=%d", int(limit.Seconds())), fmt.Sprintf("--rate=%d", l.Rate))
	r.cmd.Stderr = r.said
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pipe, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start sysbench: %w", err)
	}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start sysbench: %w", err)
	}
	go func() {
		defer close(r.done)
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			second, ok := parseSecond(lines.Text(), time.Now())
			if !ok {
				fmt.Fprintln(r.said, lines.Text())
				continue
			}
			r.mu.Lock()
			r.seconds = append(r.seconds, second)
			r.mu.Unlock()
		}
		r.err = r.cmd.Wait()
	}()
	return r, nil
}

// report is a line such as
//
//	[ 3s ] thds: 4 tps: 312.04 qps: 6240.81 (r/w/o: 4368.57/1248.16/624.08) lat (ms,95%): 18.61 err/s: 0.00 reconn/s: 0.00
var report = regexp.MustCompile(`^\[ \d+s \] thds: \d+ tps: ([0-9.]+) .*lat \(ms,95%\): ([0-9.]+) err/s: ([0-9.]+)`)

func parseSecond(line string, at time.Time) (Second, bool) {
	m := report.FindStringSubmatch(line)
	if m == nil {
		return Second{}, false
	}
	var v [3]float64
	for i := range v {
		n, err := strconv.ParseFloat(m[i+1], 64)
		if err != nil {
			return Second{}, false
		}
		v[i] = n
	}
	return Second{At: at, Transactions: v[0], P95: time.Duration(v[1] * float64(time.Millisecond)), Errors: v[2]}, true
}

// Seconds are the reports so far.
func (r *Run) Seconds() []Second {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Second(nil), r.seconds...)
}

// Failed is why the load has ended, if it has ended by itself before its time.
func (r *Run) Failed() error {
	select {
	case <-r.done:
		return fmt.Errorf("sysbench ended: %w: %s", r.err, tail(r.said.bytes()))
	default:
		return nil
	}
}

// Stop ends the load. It is an error if it had ended already: the server failed
// it.
func (r *Run) Stop() error {
	if err := r.Failed(); err != nil {
		return err
	}
	_ = r.cmd.Process.Kill() // it may have ended since
	<-r.done
	return nil
}
