package credential

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// aLogin reads a login of a database with a session of its own.
func aLogin(t *testing.T, s *fakevault.Server) (*vaultSession, Credential) {
	t.Helper()
	session := vaultAt(t, s).Open("").(*vaultSession)
	c, err := session.Read(t.Context(), tokenFor(t, "vault"), Read{Engine: EngineDatabase, Mount: "database", Role: "app"})
	if err != nil {
		t.Fatal(err)
	}
	return session, c
}

func TestManyLoginsAreEnded(t *testing.T) {
	s := newServer(t)
	session := vaultAt(t, s).Open("").(*vaultSession)
	token := tokenFor(t, "vault")
	for range 2 * maxLogins {
		if err := session.logIn(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Logins(); n != 1 {
		t.Errorf("%d logins live on which nothing hangs, want the last alone", n)
	}
	// With leases on all of them.
	var first *login
	for range maxLogins + 5 {
		if err := session.logIn(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		session.current.lease(time.Now().Add(time.Hour))
		if first == nil {
			first = session.current
			first.lease(time.Now().Add(24 * time.Hour))
		}
	}
	if n := s.Logins(); n != maxLogins+1 {
		t.Errorf("%d logins live, want %d", n, maxLogins+1)
	}
	if session.older[len(session.older)-1] != first {
		t.Error("the login with the longest lease was ended")
	}
	// The leases end, and are replaced.
	now := time.Now().Add(2 * time.Hour)
	session.now = func() time.Time { return now }
	if err := session.logIn(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if len(session.older) != 1 {
		t.Errorf("%d logins are kept, want the one with a lease", len(session.older))
	}
	if err := session.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestALoginWithALeaseOutlivesThoseWithout: time and again a read is refused with the
// login at hand, and works with a new one, as it does with a standby that lags behind.
func TestALoginWithALeaseOutlivesThoseWithout(t *testing.T) {
	s := newServer(t)
	s.LeaseTTL, s.LoginTTL = 24*time.Hour, 24*time.Hour
	session, db := aLogin(t, s)
	s.Put("secret/data/x", map[string]any{"a": "b"})
	var stale atomic.Pointer[string]
	s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/data/x") && r.Header.Get("X-Vault-Token") == *stale.Load() {
			fakevault.Refuse(w, http.StatusForbidden, "permission denied")
			return true
		}
		return false
	})
	token, read := tokenFor(t, "vault"), Read{Engine: EngineKV, Mount: "secret", Path: "x"}
	for range 2 * maxLogins {
		login := session.current.token.Reveal()
		stale.Store(&login)
		if _, err := session.Read(t.Context(), token, read); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Count("/login"); n != 2*maxLogins+1 {
		t.Fatalf("%d logins: this test is for many", n)
	}
	if len(s.Leases()) != 1 {
		t.Errorf("leases live of %q, want that of the database", s.Leases())
	}
	if n := s.Logins(); n != 2 {
		t.Errorf("%d logins live, want that with the lease and the last", n)
	}
	if _, ok := session.Renew(t.Context(), db); !ok {
		t.Error("the login of the database can be renewed no more")
	}
}
