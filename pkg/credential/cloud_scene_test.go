package credential

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// requests of clouds: a kind, and for gcp the second of its two.
const (
	ofOIDC          = "oidc"
	ofAWS           = "aws"
	ofFederation    = "gcp federation"
	ofImpersonation = "gcp impersonation"
)

// cloudAt is the source for a request of a cloud that is at an address, and the role to
// name.
func cloudAt(t *testing.T, request, url, ca string) (s Source, role string) {
	t.Helper()
	fields := map[string]any{"ca": ca}
	switch request {
	case ofOIDC:
		fields["tokenURL"], fields["audience"] = url+"/token", "exchange"
	case ofAWS:
		role = "arn:x"
		fields["endpoint"], fields["roles"] = url+"/", []string{role}
	default:
		role = "a@b"
		fields["provider"], fields["tokenURL"] = "projects/1/providers/x", url+"/federation"
		fields["impersonationURL"], fields["serviceAccounts"] = url, []string{role}
	}
	kind, _, _ := strings.Cut(request, " ")
	s = open(t, kind, fields)
	t.Cleanup(func() { closeIdle(s) })
	return s, role
}

// newFaultyCloud is a cloud that answers a request as it is told, and what goes before
// that as it should.
func newFaultyCloud(t *testing.T, request string, answer http.HandlerFunc) *cloud {
	c := &cloud{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Only then is the end of the connection noticed.
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Error(err)
		}
		if request == ofImpersonation && r.URL.Path == "/federation" {
			_, _ = fmt.Fprint(w, `{"access_token":"federated","expires_in":60}`)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}
