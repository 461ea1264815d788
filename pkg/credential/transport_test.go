package credential

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// wire is a TCP connection between a client and a server which can go dead, as one does
// whose other machine lost its power: it stays open and says nothing.
type wire struct {
	net.Listener
	to    string
	group sync.WaitGroup

	mu    sync.Mutex
	dead  []*atomic.Bool
	conns []net.Conn
}

// newWire leads to a server from an address of its own.
func newWire(t *testing.T, to net.Addr) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: listener, to: to.String()}
	w.group.Go(w.serve)
	t.Cleanup(func() {
		listener.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			c.Close()
		}
		w.mu.Unlock()
		w.group.Wait()
	})
	return w
}

func (w *wire) serve() {
	for {
		client, err := w.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.to)
		if err != nil {
			client.Close()
			return
		}
		dead := &atomic.Bool{}
		w.mu.Lock()
		w.dead, w.conns = append(w.dead, dead), append(w.conns, client, server)
		w.mu.Unlock()
		for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
			w.group.Go(func() {
				_, _ = io.Copy(unlessDead{to, dead}, from)
				if !dead.Load() {
					to.Close()
				}
			})
		}
	}
}

// unlessDead loses what is written when the wire is dead.
type unlessDead struct {
	io.Writer
	dead *atomic.Bool
}

func (u unlessDead) Write(p []byte) (int, error) {
	if u.dead.Load() {
		return len(p), nil
	}
	return u.Writer.Write(p)
}

// cut makes all connections dead that there are now.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.dead {
		d.Store(true)
	}
}

func (w *wire) made() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.dead)
}

// TestADeadConnectionIsNotUsedAgain: the machine of the service goes away without a
// word, and another one takes its address.
func TestADeadConnectionIsNotUsedAgain(t *testing.T) {
	s := newServer(t)
	s.Put("any/where", map[string]any{"a": "b"})
	var protocol atomic.Int64
	s.Misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		protocol.Store(int64(r.ProtoMajor))
		return false
	})
	front := httptest.NewUnstartedServer(s)
	front.EnableHTTP2 = true
	front.StartTLS()
	t.Cleanup(front.Close)
	w := newWire(t, front.Listener.Addr())
	v := vaultAt(t, s, func(f map[string]any) { f["address"] = "https://" + w.Addr().String() })
	session, token, read := v.Open(""), tokenFor(t, "vault"), Read{Path: "any/where"}
	for range 3 {
		if _, err := session.Read(t.Context(), token, read); err != nil {
			t.Fatal(err)
		}
	}
	if protocol.Load() != 2 || w.made() != 1 {
		t.Fatalf("HTTP/%d over %d connections: this test is for one of HTTP/2", protocol.Load(), w.made())
	}
	w.cut()
	v.service.timeout = 300 * time.Millisecond
	_, err := session.Read(t.Context(), token, read)
	wantErr(t, err, volume.ErrUnavailable, "deadline")
	v.service.timeout = requestTime
	begin := time.Now()
	if _, err := session.Read(t.Context(), token, read); err != nil {
		t.Errorf("another machine has the address, and after %s: %v", time.Since(begin), err)
	}
	if w.made() != 2 {
		t.Errorf("%d connections were made, want 2", w.made())
	}
}

// TestAnswersOfAnotherSourceKeepNoDeadConnection: two sources at one address share the
// circuit, and no connection.
func TestAnswersOfAnotherSourceKeepNoDeadConnection(t *testing.T) {
	var away atomic.Bool
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"of a cloud","expires_in":600}`)
	}))
	front.EnableHTTP2 = true
	front.StartTLS()
	t.Cleanup(front.Close)
	w := newWire(t, front.Listener.Addr())
	ca := (&cloud{Server: front}).ca()
	one, _ := cloudAt(t, ofOIDC, "https://"+w.Addr().String(), ca)
	two, _ := cloudAt(t, ofOIDC, "https://"+w.Addr().String(), ca)
	shareCircuits(map[string]Source{"one": one, "two": two})
	token := tokenFor(t, one.Audience())
	read := func(source Source) error {
		_, err := source.Open("").Read(t.Context(), token, Read{})
		return err
	}
	mustRead := func(source Source) {
		t.Helper()
		if err := read(source); err != nil {
			t.Error(err)
		}
	}
	mustRead(one)
	w.cut()
	service := one.(*exchange).service
	service.timeout = 500 * time.Millisecond
	failed := make(chan error)
	go func() { failed <- read(one) }()
	time.Sleep(100 * time.Millisecond)
	mustRead(two)
	wantErr(t, <-failed, volume.ErrUnavailable, "deadline")
	service.timeout = requestTime
	mustRead(one)

	// An answer that is of no use comes over a connection that lives.
	away.Store(true)
	made := w.made()
	wantErr(t, read(one), volume.ErrUnavailable, "503")
	away.Store(false)
	mustRead(one)
	if n := w.made() - made; n > 0 {
		t.Errorf("%d connections were made in place of one that lives", n)
	}
}

// TestARedirectDoesNotPassForTheEndOfALogin: the client takes whatever is below 400 for
// success.
func TestARedirectDoesNotPassForTheEndOfALogin(t *testing.T) {
	s := newServer(t)
	session := vaultAt(t, s).Open("")
	if _, err := session.Read(t.Context(), tokenFor(t, "vault"), Read{Engine: EngineDatabase, Mount: "database", Role: "app"}); err != nil {
		t.Fatal(err)
	}
	s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "https://vault-1:8200"+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	wantErr(t, session.Close(t.Context()), volume.ErrUnavailable, "revoke a login: "+volume.ErrUnavailable.Error()+": it redirects to vault-1:8200")
	if len(s.Leases()) != 1 {
		t.Errorf("%d leases live", len(s.Leases()))
	}
}

func TestATransportLeadsToOneHost(t *testing.T) {
	s, other := newServer(t), newServer(t)
	v := vaultAt(t, s)
	for _, target := range []string{other.URL, strings.Replace(s.URL, "https", "http", 1)} {
		body := &closing{Reader: strings.NewReader("token")}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := v.service.transport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		wantErr(t, err, volume.ErrUnavailable, "nobody is asked at "+target)
		if !body.closed {
			t.Error("the body is open still")
		}
	}
	if n := len(s.Requests()) + len(other.Requests()); n > 0 {
		t.Errorf("%d requests got through", n)
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}
