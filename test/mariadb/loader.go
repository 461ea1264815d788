package mariadb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

// loaderTable is what a Loader fills. Its seal makes a torn row visible: it must
// be the checksum of the rest.
const loaderTable = "bulk"

// LoaderRows is how many rows each statement of a Loader adds, in a transaction of
// its own, and LoaderRowBytes about how many bytes a row has.
const (
	LoaderRows     = 256
	LoaderRowBytes = 4096
)

// Loader fills a table of its own, one statement and commit after another, at a
// steady pace.
type Loader struct {
	server *Server
	cmd    *exec.Cmd
	stop   chan struct{}
	done   chan struct{}
	said   *output

	mu  sync.Mutex
	err error
}

// StartLoader starts to add one statement each pace.
func (s *Server) StartLoader(ctx context.Context, pace time.Duration) (*Loader, error) {
	const create = "CREATE TABLE " + Database + "." + loaderTable + " (id BIGINT AUTO_INCREMENT PRIMARY KEY, pad VARBINARY(8000) NOT NULL, seal VARBINARY(32) NOT NULL)"
	if _, err := s.Query(ctx, create); err != nil {
		return nil, err
	}
	l := &Loader{server: s, stop: make(chan struct{}), done: make(chan struct{}), said: &output{}}
	l.cmd = exec.Command("mariadb", append(s.client(), "--batch", "--unbuffered", Database)...)
	l.cmd.Stdout, l.cmd.Stderr = l.said, l.said
	// A pipe of the kernel's would take many statements ahead of the server.
	pipe, err := l.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the loader: %w", err)
	}
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the loader: %w", err)
	}
	statement := fmt.Sprintf("INSERT INTO %s (pad, seal) SELECT pad, MD5(pad) FROM (SELECT REPEAT(SHA2(RAND(), 256), %d) AS pad FROM seq_1_to_%d) AS fresh;\n",
		loaderTable, LoaderRowBytes/64, LoaderRows)
	go func() {
		defer close(l.done)
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			if _, err := pipe.Write([]byte(statement)); err != nil {
				break // the client has ended, and says why below
			}
			select {
			case <-l.stop:
			case <-tick.C:
				continue
			}
			break
		}
		_ = pipe.Close() // what the client then says is what counts
		if err := l.cmd.Wait(); err != nil {
			l.fail(fmt.Errorf("%w: %s", err, tail(l.said.bytes())))
		}
	}()
	return l, nil
}

func (l *Loader) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("load in bulk: %w", err)
	}
}

// Failed is why the load has ended, if it has ended by itself.
func (l *Loader) Failed() error {
	select {
	case <-l.done:
		return errors.Join(errors.New("the load in bulk ended"), l.failure())
	default:
		return nil
	}
}

func (l *Loader) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Stop ends the load and returns its first error.
func (l *Loader) Stop() error {
	close(l.stop)
	select {
	case <-l.done:
	case <-time.After(time.Minute):
		l.fail(os.ErrDeadlineExceeded)
		_ = l.cmd.Process.Kill() // it may have ended since
		<-l.done
	}
	return l.failure()
}

// Torn counts the rows of a Loader that are not what it wrote.
func (s *Server) Torn(ctx context.Context) (int64, error) {
	return s.number(ctx, "SELECT COUNT(*) FROM "+Database+"."+loaderTable+" WHERE seal <> MD5(pad)")
}
