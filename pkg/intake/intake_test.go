package intake

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// serve runs a server in a directory of its own until the test ends, or stop is
// called.
func serve(t *testing.T, handle Handler) (stateDir string, stop func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root is served")
	}
	// Longer than the path of a socket may be.
	stateDir = filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(stateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	s := &Server{StateDir: stateDir, Handle: handle, Warn: func(err error) { t.Log("warning:", err) }}
	group.Go(func() { s.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	t.Cleanup(stop)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(stateDir, SocketFile)); err == nil {
			return stateDir, stop
		}
		if time.Now().After(end) {
			t.Fatal("there is no socket")
		}
	}
}

func source(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestTheOpenFileComesWithTheRequest(t *testing.T) {
	dir, _ := serve(t, func(_ context.Context, req Request, f *os.File, progress func(Progress)) (Result, error) {
		text, err := io.ReadAll(f)
		progress(Progress{Done: 1, Total: 2})
		return Result{Name: req.Name, Size: req.Size, Notes: []string{string(text)}}, err
	})
	var seen []Progress
	got, err := Ask(t.Context(), dir, Request{Name: "a", Size: 5}, source(t, "hello"), func(p Progress) { seen = append(seen, p) })
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "a" || got.Size != 5 || len(got.Notes) != 1 || got.Notes[0] != "hello" {
		t.Errorf("%+v", got)
	}
	if len(seen) != 1 || seen[0] != (Progress{1, 2}) {
		t.Errorf("progress: %v", seen)
	}
	if st, err := os.Stat(filepath.Join(dir, SocketFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
}

func TestAnErrorIsTold(t *testing.T) {
	dir, _ := serve(t, func(context.Context, Request, *os.File, func(Progress)) (Result, error) {
		return Result{}, errors.New("no space in pool: really")
	})
	if _, err := Ask(t.Context(), dir, Request{Name: "a"}, source(t, ""), nil); err == nil || err.Error() != "no space in pool: really" {
		t.Errorf("%v", err)
	}
}

func TestWithoutADriverItSaysSo(t *testing.T) {
	if _, err := Ask(t.Context(), t.TempDir(), Request{Name: "a"}, source(t, ""), nil); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

// waiting is a handler that waits until its context ends, and says why that was.
func waiting(began chan<- struct{}, ended chan<- error) Handler {
	return func(ctx context.Context, _ Request, _ *os.File, _ func(Progress)) (Result, error) {
		close(began)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return Result{}, context.Cause(ctx)
	}
}

func TestAnImportEndsWithWhoeverAskedForIt(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	dir, _ := serve(t, waiting(began, ended))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if _, err := Ask(ctx, dir, Request{Name: "a"}, source(t, ""), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("the client ended with %v", err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "has gone") {
		t.Errorf("the import ended with %v", err)
	}
}

func TestAnImportEndsWithTheServer(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	dir, stop := serve(t, waiting(began, ended))
	go func() {
		<-began
		stop()
	}()
	if _, err := Ask(t.Context(), dir, Request{Name: "a"}, source(t, ""), nil); err == nil {
		t.Error("it succeeded")
	}
	if err := <-ended; err == nil {
		t.Error("the import did not end")
	}
	stop()
	if _, err := os.Lstat(filepath.Join(dir, SocketFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestASecondServerWaitsForTheFirst(t *testing.T) {
	dir, _ := serve(t, func(context.Context, Request, *os.File, func(Progress)) (Result, error) {
		return Result{Name: "first"}, nil
	})
	if _, _, err := listen(dir); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("%v", err)
	}
	got, err := Ask(t.Context(), dir, Request{Name: "a"}, source(t, ""), nil)
	if err != nil || got.Name != "first" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestASocketOfTheDeadIsReplaced(t *testing.T) {
	dir := t.TempDir()
	l, open, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(l.Close(), open.Close()); err != nil {
		t.Fatal(err)
	}
	l, open, err = listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), open.Close()); err != nil {
		t.Error(err)
	}
}

// What does not speak the protocol gets an error, and the server goes on.
func TestGarbageIsRefused(t *testing.T) {
	dir, _ := serve(t, func(context.Context, Request, *os.File, func(Progress)) (Result, error) {
		return Result{Name: "fine"}, nil
	})
	for name, line := range map[string]string{
		"no file":  "{\"name\":\"a\"}\n",
		"no JSON":  "hello\n",
		"too long": strings.Repeat("x", 2*maxRequest),
		"nothing":  "",
	} {
		t.Run(name, func(t *testing.T) {
			conn := dialRaw(t, dir)
			// The server may hang up before all of it is sent.
			_, _ = conn.Write([]byte(line))
			if err := conn.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(conn)
			if !strings.Contains(string(answer), `"error"`) {
				t.Errorf("it answered %q", answer)
			}
		})
	}
	if got, err := Ask(t.Context(), dir, Request{Name: "a"}, source(t, ""), nil); err != nil || got.Name != "fine" {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
}

func dialRaw(t *testing.T, dir string) *net.UnixConn {
	t.Helper()
	open, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	conn, err := net.DialUnix("unix", nil, address(open))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
