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
	transport, ok := s.client.Transport.(fenced).next.(*http.Transport)
	if !ok || transport.Proxy != nil {
		t.Errorf("requests go through what %T chooses", s.client.Transport)
	}
}
