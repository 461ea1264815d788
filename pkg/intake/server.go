package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Handler makes an import of an open source, which stays the caller's. It obeys ctx.
type Handler func(ctx context.Context, req Request, source *os.File, progress func(Progress)) (Result, error)

// Server serves imports.
type Server struct {
	// StateDir is where the socket is made.
	StateDir string
	Handle   Handler
	// Warn is told why nobody can import, once for each new reason. It may be nil.
	Warn func(error)
}

// listenAgain is how long Run waits before it tries once more to make its socket.
const listenAgain = 5 * time.Second

// stopWait bounds how long Run waits for an import that it has told to end.
const stopWait = 10 * time.Second

// Run serves until ctx ends, and then until the imports that it broke off are gone. A
// socket that cannot be made, because an earlier driver still has it, is tried again.
func (s *Server) Run(ctx context.Context) {
	var group sync.WaitGroup
	said := ""
	for ctx.Err() == nil {
		err := s.serve(ctx, &group)
		if err != nil && err.Error() != said && s.Warn != nil {
			said = err.Error()
			s.Warn(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
	gone := make(chan struct{})
	go func() {
		group.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(stopWait): // it hangs in a read of the source; it leaves nothing that a start does not remove
	}
}

func (s *Server) serve(ctx context.Context, group *sync.WaitGroup) error {
	l, dir, err := listen(s.StateDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		group.Go(func() { s.talk(ctx, conn) })
	}
}

// talk serves one connection.
func (s *Server) talk(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	w := &writer{conn: conn, enc: json.NewEncoder(conn), stop: func(error) {}}
	result, err := s.answer(ctx, conn, w)
	if err != nil {
		w.send(answer{Error: err.Error()})
		return
	}
	w.send(answer{Result: &result})
}

func (s *Server) answer(ctx context.Context, conn *net.UnixConn, w *writer) (Result, error) {
	if err := checkPeer(conn); err != nil {
		return Result{}, err
	}
	const patience = 10 * time.Second
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return Result{}, err
	}
	req, source, err := receiveRequest(conn)
	if err != nil {
		return Result{}, err
	}
	defer source.Close()
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.onFailure(cancel)
	go func() {
		// Nothing more comes; this ends when the other side does.
		_, _ = io.Copy(io.Discard, conn)
		cancel(errors.New("whoever asked for the import has gone"))
	}()
	return s.Handle(ctx, req, source, w.progress)
}

// writer sends answers from any goroutine.
type writer struct {
	// mu guards the connection.
	mu   sync.Mutex
	conn *net.UnixConn
	enc  *json.Encoder
	last time.Time   // when the last progress was sent
	stop func(error) // breaks the import off
}

// listenPatience is how long who asked may leave an answer unread once the socket is
// full. It is shorter than stopWait: the end of the server waits for no client that
// was stopped.
const listenPatience = 5 * time.Second

func (w *writer) onFailure(stop func(error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop = stop
}

// send: if nobody listens any more the import ends, for it has locks and takes
// space.
func (w *writer) send(a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sendLocked(a)
}

func (w *writer) sendLocked(a answer) {
	err := w.conn.SetWriteDeadline(time.Now().Add(listenPatience))
	if err == nil {
		err = w.enc.Encode(a)
	}
	if err != nil {
		w.stop(fmt.Errorf("whoever asked for the import does not listen any more: %w", err))
	}
}

// progressEvery bounds how often progress is told.
const progressEvery = time.Second

func (w *writer) progress(p Progress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) < progressEvery {
		return
	}
	w.last = time.Now()
	w.sendLocked(answer{Progress: &p})
}
