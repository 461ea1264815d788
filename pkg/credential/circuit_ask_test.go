package credential

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestForHowLongAServiceAsksToBeLeftAlone(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, c := range []struct {
		name        string
		status      int
		after, date string
		want        time.Duration
	}{
		{"seconds", 429, "17", "", 17 * time.Second},
		{"of a service that is away", 503, "17", "", 17 * time.Second},
		{"a time", 429, at(time.Minute), "", time.Minute},
		{"a time by another clock", 429, at(time.Hour + time.Minute), at(time.Hour), time.Minute},
		{"a time that has passed", 429, at(-time.Minute), "", 0},
		{"nothing", 429, "", "", 0},
		{"nonsense", 429, "soon", "", 0},
		{"before now", 429, "-5", "", 0},
		{"beyond all", 429, "99999999999999999999", "", 0},
		{"another answer", 200, "17", "", 0},
		{"a redirect", 301, "17", "", 0},
	} {
		resp := &http.Response{StatusCode: c.status, Header: http.Header{"Retry-After": {c.after}, "Date": {c.date}}}
		if got := patienceOf(resp, now); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestWhoIsOverItsQuotaStopsNobodyElse: Vault's quotas may be those of one role.
func TestWhoIsOverItsQuotaStopsNobodyElse(t *testing.T) {
	s := newServer(t)
	s.Put("any/where", map[string]any{"a": "b"})
	s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/quota") {
			return false
		}
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"errors":["request path \"p/quota\": rate limit quota exceeded"]}`)
		return true
	})
	v := vaultAt(t, s)
	now := time.Now()
	v.service.circuit.now = func() time.Time { return now }
	pod := thePod()
	pod.Namespace = "other"
	greedy, other := tokenFor(t, "vault"), tokenOf(t, pod, "vault")
	session, others := v.Open(""), v.Open("")
	_, err := session.Read(t.Context(), greedy, Read{Path: "p/quota"})
	wantErr(t, err, volume.ErrUnavailable, "429 Too Many Requests: request path")
	for range 2 * toOpen {
		_, err = session.Read(t.Context(), greedy, Read{Path: "p/quota"})
		wantErr(t, err, volume.ErrUnavailable, "it has asked not to be asked again before")
		if _, err := others.Read(t.Context(), other, Read{Path: "any/where"}); err != nil {
			t.Error(err)
		}
	}
	if n := s.Count("/quota"); n != 1 {
		t.Errorf("asked %d times in no time", n)
	}
	if _, away := v.Away(); away {
		t.Error("the service passes for away")
	}
	now = now.Add(30 * time.Second)
	if _, err := session.Read(t.Context(), greedy, Read{Path: "any/where"}); err != nil {
		t.Error(err)
	}
}

// TestAnOpenCircuitSaysWhy: most of the time the circuit is what answers a pod that
// cannot start because an address or a certificate is wrong.
func TestAnOpenCircuitSaysWhy(t *testing.T) {
	s := newServer(t)
	for name, c := range map[string]struct {
		change func(map[string]any)
		says   string
	}{
		"another authority": {func(f map[string]any) { f["ca"] = otherCA(t) }, "certificate"},
		"nobody there":      {func(f map[string]any) { f["address"] = "https://127.0.0.1:1" }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			v := vaultAt(t, s, c.change)
			for range 2 * toOpen {
				_, err := v.Open("").Read(t.Context(), tokenFor(t, "vault"), Read{Path: "a/b"})
				wantErr(t, err, volume.ErrUnavailable, c.says)
			}
		})
	}
	t.Run("an answer", func(t *testing.T) {
		s.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"errors":["sealed for `+canary+`"]}`)
			return true
		})
		v := vaultAt(t, s)
		var err error
		for range 2 * toOpen {
			_, err = v.Open("").Read(t.Context(), tokenFor(t, "vault"), Read{Path: "a/b"})
		}
		// What one pod is told is not for all of them.
		wantErr(t, err, volume.ErrUnavailable, "(it answers 503 Service Unavailable)")
		if strings.Contains(err.Error(), canary) {
			t.Error(err)
		}
	})
}

// TestAPanicLeavesTheServiceToOthers: nobody would ask again if the one that looked
// whether the service is back never came back itself.
func TestAPanicLeavesTheServiceToOthers(t *testing.T) {
	s := newServer(t)
	v := vaultAt(t, s)
	now := time.Now()
	v.service.circuit.now = func() time.Time { return now }
	ask := func(request func() error) error {
		return v.service.ask(t.Context(), "shop", "ask", func(context.Context) error { return request() })
	}
	for range toOpen {
		wantErr(t, ask(func() error { return errors.New("away") }), volume.ErrUnavailable, "away")
	}
	now = now.Add(longestOpen)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = ask(func() error { panic("a decoder") })
	}()
	now = now.Add(longestOpen)
	if err := ask(func() error { return nil }); err != nil {
		t.Error(err)
	}
}
