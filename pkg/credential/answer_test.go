package credential

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// TestWhatOnePodAsksForStopsNobodyElse: one path of Vault's is broken, and another one
// too large.
func TestWhatOnePodAsksForStopsNobodyElse(t *testing.T) {
	s := newServer(t)
	s.Put("good/one", map[string]any{"a": "b"})
	s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/broken"):
			fakevault.Refuse(w, http.StatusInternalServerError, "dial tcp: connection refused")
		case strings.HasSuffix(r.URL.Path, "/large"):
			fakevault.Answer(w, map[string]any{"data": map[string]any{"x": strings.Repeat("x", 2<<20)}})
		default:
			return false
		}
		return true
	})
	v := vaultAt(t, s)
	token := tokenFor(t, "vault")
	bad, good := v.Open(""), v.Open("")
	for range 2 * toOpen {
		for path, says := range map[string]string{"p/broken": "connection refused", "p/large": "larger than 1 MiB"} {
			_, err := bad.Read(t.Context(), token, Read{Path: path})
			wantErr(t, err, volume.ErrUnavailable, says)
			if strings.Contains(fmt.Sprint(err), errAnswered.Error()) {
				t.Errorf("%v", err)
			}
		}
	}
	if _, err := good.Read(t.Context(), token, Read{Path: "good/one"}); err != nil {
		t.Error(err)
	}
	if _, away := v.Away(); away {
		t.Error("the service passes for away")
	}
}

// TestWhatHangsAloneStopsNobodyElse: one path gives no answer, while another one does.
func TestWhatHangsAloneStopsNobodyElse(t *testing.T) {
	s := newServer(t)
	s.Put("good/one", map[string]any{"a": "b"})
	hangs, hangUp := make(chan struct{}), make(chan struct{})
	s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/hangs") {
			return false
		}
		// After this the client does not try again by itself.
		w.(http.Flusher).Flush()
		hangs <- struct{}{}
		<-hangUp
		panic(http.ErrAbortHandler)
	})
	v := vaultAt(t, s)
	token := tokenFor(t, "vault")
	bad, good := v.Open(""), v.Open("")
	if _, err := good.Read(t.Context(), token, Read{Path: "good/one"}); err != nil {
		t.Fatal(err)
	}
	for range 2 * toOpen {
		done := make(chan error)
		go func() {
			_, err := bad.Read(t.Context(), token, Read{Path: "p/hangs"})
			done <- err
		}()
		<-hangs
		if _, err := good.Read(t.Context(), token, Read{Path: "good/one"}); err != nil {
			t.Error(err)
		}
		hangUp <- struct{}{}
		wantErr(t, <-done, volume.ErrUnavailable, "")
	}
	if _, away := v.Away(); away {
		t.Error("the service passes for away")
	}
}

func TestALeaseIsNotHungOnALoginThatEndsSoon(t *testing.T) {
	s := newServer(t)
	s.LeaseTTL, s.LoginTTL = time.Hour, time.Hour
	session := vaultAt(t, s).Open("").(*vaultSession)
	token := tokenFor(t, "vault")
	db := Read{Engine: EngineDatabase, Mount: "database", Role: "app"}
	read := func() {
		t.Helper()
		if c, err := session.Read(t.Context(), token, db); err != nil || c.Life() < 50*time.Minute {
			t.Errorf("a lease of %s, %v", c.Life(), err)
		}
	}
	read()
	soon := func() { session.current.expires = time.Now().Add(time.Minute) }
	soon()
	read()
	if n := s.Count("renew-self"); n != 1 || s.Count("/login") != 1 {
		t.Errorf("%d renewals and %d logins, want one of each", n, s.Count("/login"))
	}
	// At its maximum a login cannot be renewed.
	soon()
	s.Deny("auth/token/renew-self", true)
	read()
	if n := s.Count("/login"); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
}

func TestTheEndOfWhatHasNoLeaseIsInIt(t *testing.T) {
	s := newServer(t)
	token := tokenFor(t, "vault")
	session := vaultAt(t, s).Open("")
	c, err := session.Read(t.Context(), token, Read{Path: "pki/issue/web", With: map[string]string{"common_name": "x", "ttl": "10m"}})
	if err != nil || c.Life() < 9*time.Minute || c.Life() > 11*time.Minute {
		t.Errorf("a certificate without its engine lives for %s, %v", c.Life(), err)
	}
	begin := time.Unix(1_700_000_000, 0)
	for name, w := range map[string]struct {
		fields map[string]string
		life   time.Duration
	}{
		"expiration":              {map[string]string{"expiration": fmt.Sprint(begin.Unix() + 600)}, 10 * time.Minute},
		"ttl":                     {map[string]string{"ttl": "300"}, 5 * time.Minute},
		"an expiration of before": {map[string]string{"expiration": fmt.Sprint(begin.Unix() - 600)}, 0},
		"a ttl of nothing":        {map[string]string{"ttl": "0"}, 0},
		"both":                    {map[string]string{"expiration": fmt.Sprint(begin.Unix() + 600), "ttl": "900"}, 10 * time.Minute},
		"a clock that is ahead":   {map[string]string{"expiration": fmt.Sprint(begin.Unix() + 1500), "ttl": "900"}, 15 * time.Minute},
		"texts":                   {map[string]string{"expiration": "never", "ttl": "1h", "certificate": "none"}, 0},
	} {
		c := Credential{Fields: map[string]secret.Text{}, Issued: begin}
		for k, v := range w.fields {
			c.Fields[k] = secret.New(v)
		}
		if c.Expires = c.endInside(begin); c.Life() != w.life {
			t.Errorf("%s: it lives for %s, want %s", name, c.Life(), w.life)
		}
	}
}

func TestTheEndOfACertificateByAnotherClock(t *testing.T) {
	issued := time.Unix(1_700_000_000, 0)
	c := &x509.Certificate{NotBefore: issued.Add(-30 * time.Second), NotAfter: issued.Add(time.Hour)}
	for skew, want := range map[time.Duration]time.Time{
		0:                 c.NotAfter,
		10 * time.Minute:  c.NotAfter, // this clock is ahead: it shows the end too early
		-10 * time.Minute: issued.Add(-10*time.Minute + time.Hour + 30*time.Second),
	} {
		if got := endOf(c, issued.Add(skew)); !got.Equal(want) {
			t.Errorf("with a clock off by %s it ends at %s, want %s", skew, got, want)
		}
	}
}
