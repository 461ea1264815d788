package credential

import (
	"net/http"
	"net/url"
	"testing"
)

// TestNoProxyOfTheEnvironmentIsAsked: Go's own choice of one is made once for a process,
// and never for this machine, so only that nobody makes it can be seen.
func TestNoProxyOfTheEnvironmentIsAsked(t *testing.T) {
	s := newService("x", &url.URL{Scheme: "http", Host: "vault.example.org"}, nil)
	if s.transport.next.Load().Proxy != nil || s.transport.connections().Proxy != nil || s.client.Transport != http.RoundTripper(s.transport) {
		t.Errorf("requests go through what %T chooses", s.client.Transport)
	}
}
