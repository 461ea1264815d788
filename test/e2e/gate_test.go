package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// gate is a proxy in front of a Vault, with the same certificate. It can be shut, then
// it is as if the server did not run; and it can hold back what the server has answered.
type gate struct {
	address string // host and port
	home    string // of the Vault
	proxy   http.Handler

	mu     sync.Mutex
	server *http.Server  // nil: it is shut
	paths  []string      // of the answers that are held, or how they begin
	held   chan struct{} // closed when they pass again; nil if they do
	asked  chan struct{} // closed when the first is held
}

// newGate opens one on the node's address.
func (s *scene) newGate(v *vaultServer) *gate {
	s.t.Helper()
	to, err := url.Parse(v.address)
	s.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(v.pem))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	g := &gate{address: freeAddress(s, cluster.NodeIP), home: v.home}
	g.proxy = &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(r *http.Response) error {
			g.pass(r.Request)
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	s.must(g.unlock())
	s.t.Cleanup(func() {
		g.release()
		g.shut()
		transport.CloseIdleConnections()
	})
	return g
}

// url is where it is.
func (g *gate) url() string { return "https://" + g.address }

// unlock lets everybody in again. While it was shut, its port may have become that of
// a connection of somebody else, for a while.
func (g *gate) unlock() error {
	l, err := net.Listen("tcp", g.address)
	for end := time.Now().Add(aWhile); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); time.Sleep(time.Second) {
		l, err = net.Listen("tcp", g.address)
	}
	if err != nil {
		return err
	}
	server := &http.Server{Handler: g.proxy, ErrorLog: log.New(io.Discard, "", 0)}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.server = server
	go func() {
		err := server.ServeTLS(l, filepath.Join(g.home, "tls.crt"), filepath.Join(g.home, "tls.key"))
		if !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()
	return nil
}

// shut ends all connections, and refuses new ones.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.server != nil {
		_ = g.server.Close()
		g.server = nil
	}
}

// hold keeps answers about paths of Vault's API back until release. The channel is
// closed when there is one.
func (g *gate) hold(paths ...string) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.paths, g.held, g.asked = paths, make(chan struct{}), make(chan struct{})
	return g.asked
}

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held != nil {
		close(g.held)
		g.held = nil
	}
}

// pass waits until the answer to a request may pass, or nobody waits for it.
func (g *gate) pass(r *http.Request) {
	g.mu.Lock()
	held := g.held
	begins := func(path string) bool { return strings.HasPrefix(r.URL.Path, "/v1/"+path) }
	if held == nil || !slices.ContainsFunc(g.paths, begins) {
		g.mu.Unlock()
		return
	}
	if g.asked != nil {
		close(g.asked)
		g.asked = nil
	}
	g.mu.Unlock()
	select {
	case <-held:
	case <-r.Context().Done():
	}
}
