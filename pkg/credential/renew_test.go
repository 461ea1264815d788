package credential

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// TestARenewalThatMakesNoSenseIsNone gives each answer to the renewal of a lease: what
// is not surely the same for longer is to be read anew, while there is time.
func TestARenewalThatMakesNoSenseIsNone(t *testing.T) {
	write := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, text)
		}
	}
	lease := func(id string, seconds int64) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			fakevault.Answer(w, map[string]any{"lease_id": id, "lease_duration": seconds, "renewable": true})
		}
	}
	for name, answer := range map[string]func(id string) http.HandlerFunc{
		"another lease":    func(id string) http.HandlerFunc { return lease(id+"x", 3600) },
		"no time at all":   func(id string) http.HandlerFunc { return lease(id, 0) },
		"less than half":   func(id string) http.HandlerFunc { return lease(id, 1700) },
		"a negative time":  func(id string) http.HandlerFunc { return lease(id, -3600) },
		"a time for ever":  func(id string) http.HandlerFunc { return lease(id, 1<<40) },
		"a time as a text": func(string) http.HandlerFunc { return write(200, `{"lease_duration":"soon"}`) },
		"nothing":          func(string) http.HandlerFunc { return write(200, "") },
		"204":              func(string) http.HandlerFunc { return write(204, "") },
		"an empty object":  func(string) http.HandlerFunc { return write(200, "{}") },
		"garbage":          func(string) http.HandlerFunc { return write(200, "\x00\xff"+canary) },
		"oversized":        func(string) http.HandlerFunc { return write(200, strings.Repeat(" ", 2<<20)+"{}") },
		"400":              func(string) http.HandlerFunc { return write(400, `{"errors":["lease not found"]}`) },
		"403":              func(string) http.HandlerFunc { return write(403, `{"errors":["permission denied"]}`) },
		"429":              func(string) http.HandlerFunc { return write(429, `{"errors":["quota"]}`) },
		"503":              func(string) http.HandlerFunc { return write(503, `{"errors":["Vault is sealed"]}`) },
		"a proxy's":        func(string) http.HandlerFunc { return write(502, "<html>") },
		"a redirect":       func(string) http.HandlerFunc { return write(307, "") },
		"hangs up": func(string) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			session, c := aLogin(t, s)
			s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "leases/renew") {
					return false
				}
				answer(c.lease.id)(w, r)
				return true
			})
			end := c.Expires
			if got, ok := session.Renew(t.Context(), c); ok {
				t.Errorf("it passes for renewed until %s, it was to end at %s", got.Expires, end)
			}
			// The login is as good as before.
			s.Misbehave(nil)
			if got, ok := session.Renew(t.Context(), c); !ok || got.Expires.Before(end) {
				t.Errorf("renewed by an answer that makes sense: %v, until %s", ok, got.Expires)
			}
		})
	}
	t.Run("slow", func(t *testing.T) {
		s := newServer(t)
		session, c := aLogin(t, s)
		s.Misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		})
		session.vault.service.timeout = 100 * time.Millisecond
		if _, ok := session.Renew(t.Context(), c); ok {
			t.Error("it passes for renewed")
		}
	})
}

func TestALeaseThatCanBeRenewedNoMoreIsReadAnew(t *testing.T) {
	s := newServer(t)
	session, c := aLogin(t, s)
	s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "leases/renew") {
			return false
		}
		fakevault.Answer(w, map[string]any{"lease_id": c.lease.id, "lease_duration": 3600, "renewable": false})
		return true
	})
	c, ok := session.Renew(t.Context(), c)
	if !ok {
		t.Fatal("the last renewal counts for nothing")
	}
	if _, ok := session.Renew(t.Context(), c); ok || s.Count("leases/renew") != 1 {
		t.Errorf("renewed again: %v, asked %d times", ok, s.Count("leases/renew"))
	}
}

func TestNothingIsRenewedWithALoginThatEnds(t *testing.T) {
	s := newServer(t)
	session, c := aLogin(t, s)
	s.Deny("auth/token/renew-self", true)
	for name, left := range map[string]time.Duration{"soon": minLogin / 2, "before": -time.Minute} {
		c.lease.login.expires = time.Now().Add(left)
		if _, ok := session.Renew(t.Context(), c); ok {
			t.Errorf("%s: it passes for renewed", name)
		}
	}
	if n := s.Count("leases/renew"); n != 0 {
		t.Errorf("asked %d times with a login that is dead", n)
	}
	// Nor with one that Vault has forgotten.
	c.lease.login.expires = time.Now().Add(time.Hour)
	s.ForgetLogins()
	if _, ok := session.Renew(t.Context(), c); ok {
		t.Error("without its login it passes for renewed")
	}
}
