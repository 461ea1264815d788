package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// canary is in the answers of an unfriendly service, and must be in no error but where
// the service calls it its error.
const canary = "canary-password"

// TestEveryAnswerOfAnUnfriendlyServiceHasItsError gives each answer to the login and to
// the read.
func TestEveryAnswerOfAnUnfriendlyServiceHasItsError(t *testing.T) {
	write := func(status int, text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, text)
		}
	}
	vaultError := func(status int, text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { fakevault.Refuse(w, status, text) }
	}
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		want   error
		says   string
		// atRead and atLogin say where it is tried; neither means both.
		atRead, atLogin bool
		// slow says that it ends at the time limit of a request.
		slow bool
	}{
		{name: "400", answer: vaultError(400, "invalid role name"), want: volume.ErrDenied, says: "invalid role name", atLogin: true},
		{name: "400", answer: vaultError(400, "unknown role"), want: volume.ErrInvalid, says: "unknown role", atRead: true},
		{name: "an upgrade of kv", answer: vaultError(400, "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly."),
			want: volume.ErrUnavailable, says: "400 Bad Request: Upgrading from"},
		{name: "an upgrade of kv elsewhere", answer: vaultError(400, "Waiting for the primary to upgrade from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service when the primary is finished."),
			want: volume.ErrUnavailable, says: "Waiting for the primary"},
		{name: "401", answer: vaultError(401, "who are you"), want: volume.ErrDenied, says: "401 Unauthorized: who are you"},
		{name: "403", answer: vaultError(403, "permission denied"), want: volume.ErrDenied, says: "permission denied"},
		{name: "404", answer: vaultError(404, "no handler for route"), want: volume.ErrPrecondition, says: "404 Not Found: no handler for route"},
		{name: "kv of version 2", answer: func(w http.ResponseWriter, _ *http.Request) {
			fakevault.Warn(w, "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use.")
		}, want: volume.ErrPrecondition, says: "404 Not Found: it is version 2 of kv", atRead: true},
		{name: "warnings of another server", answer: write(404, `{"warnings":["`+canary+`"]}`), want: volume.ErrUnavailable, says: "404 Not Found, in no way"},
		{name: "404, nothing there", answer: write(404, `{"errors":[]}`), want: volume.ErrPrecondition, says: "nothing at that path", atRead: true},
		{name: "405", answer: vaultError(405, "unsupported operation"), want: volume.ErrDenied, says: "unsupported", atLogin: true},
		{name: "405", answer: vaultError(405, "unsupported operation"), want: volume.ErrInvalid, says: "unsupported", atRead: true},
		{name: "429", answer: vaultError(429, "rate limit quota exceeded"), want: volume.ErrUnavailable, says: "429 Too Many Requests: rate limit"},
		{name: "500", answer: vaultError(500, "internal error"), want: volume.ErrUnavailable, says: "internal error"},
		{name: "502 of a proxy", answer: write(502, "<html>"+canary+"</html>"), want: volume.ErrUnavailable, says: "502 Bad Gateway"},
		{name: "503", answer: vaultError(503, "Vault is sealed"), want: volume.ErrUnavailable, says: "Vault is sealed"},
		{name: "473", answer: vaultError(473, "performance standby"), want: volume.ErrUnavailable, says: "473"},
		{name: "slow", answer: hang, want: volume.ErrUnavailable, says: "deadline", slow: true},
		{name: "slow body", answer: func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, want: volume.ErrUnavailable, says: "", slow: true},
		{name: "hangs up", answer: func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, want: volume.ErrUnavailable, says: ""},
		{name: "no JSON", answer: write(200, "welcome "+canary), want: volume.ErrUnavailable, says: "not that of a Vault server"},
		{name: "half of it", answer: write(200, `{"data":{"password":"`+canary), want: volume.ErrUnavailable, says: "not that of a Vault server"},
		{name: "another JSON", answer: write(200, `["`+canary+`"]`), want: volume.ErrUnavailable, says: "not that of a Vault server"},
		{name: "no data", answer: write(200, `{}`), want: volume.ErrUnavailable, says: "not that of a Vault server", atRead: true},
		{name: "another server's JSON", answer: write(200, `{"status":"`+canary+`"}`), want: volume.ErrUnavailable, says: "not that of a Vault server", atRead: true},
		{name: "204", answer: write(204, ""), want: volume.ErrUnavailable, says: ""},
		{name: "307 without anything", answer: write(307, ""), want: volume.ErrUnavailable, says: "it redirects to another address (307 Temporary Redirect)"},
		{name: "404 without anything", answer: write(404, ""), want: volume.ErrUnavailable, says: ""},
		{name: "404 of a proxy", answer: write(404, "<html>"+canary+"</html>"), want: volume.ErrUnavailable, says: ""},
		{name: "403 of a proxy", answer: write(403, "<html>"+canary+"</html>"), want: volume.ErrUnavailable, says: "403 Forbidden, in no way"},
		{name: "400 of a proxy", answer: write(400, ""), want: volume.ErrUnavailable, says: "400 Bad Request, in no way"},
		{name: "404 of another server", answer: write(404, `{"message":"`+canary+`"}`), want: volume.ErrUnavailable, says: "404 Not Found, in no way"},
		{name: "403 of another server", answer: write(403, `{"kind":"Status","message":"`+canary+`"}`), want: volume.ErrUnavailable, says: "403 Forbidden, in no way"},
		{name: "no login", answer: write(200, `{"data":{"x":"`+canary+`"}}`), want: volume.ErrUnavailable, says: "has no token", atLogin: true},
		{name: "empty", answer: write(200, ""), want: volume.ErrUnavailable, says: ""},
		{name: "deleted version", answer: write(404, `{"request_id":"x","data":{"data":null,"metadata":{"deletion_time":"2026-01-01T00:00:00Z"}}}`), want: volume.ErrPrecondition, says: "nothing at that path", atRead: true},
		{name: "no version", answer: write(200, `{"data":{"data":null,"metadata":{}}}`), want: volume.ErrPrecondition, says: "nothing at that path", atRead: true},
		{name: "kv of version 1", answer: write(200, `{"data":{"password":"`+canary+`"}}`), want: volume.ErrPrecondition, says: "version: 1", atRead: true},
		{name: "oversized", answer: write(200, `{"data":{"data":{"x":"`+strings.Repeat(canary, 100_000)+`"}}}`), want: volume.ErrUnavailable, says: "larger than 1 MiB"},
		{name: "endless", answer: func(w http.ResponseWriter, _ *http.Request) {
			for range 4 << 10 {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}, want: volume.ErrUnavailable, says: "larger than 1 MiB"},
		{name: "oversized error", answer: write(500, strings.Repeat(canary, 100_000)), want: volume.ErrUnavailable, says: ""},
		{name: "long error", answer: vaultError(403, strings.Repeat("no ", 10_000)), want: volume.ErrDenied, says: "..."},
		{name: "redirect", answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://vault-1.internal:8200/v1/x?"+canary, http.StatusTemporaryRedirect)
		}, want: volume.ErrUnavailable, says: "it redirects to vault-1.internal:8200 (307 Temporary Redirect), where nobody is asked"},
		{name: "redirect to a secret", answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+canary+"_X/", http.StatusFound)
		}, want: volume.ErrUnavailable, says: "it redirects to another address (302 Found)"},
		{name: "a lease from the past", answer: write(200, `{"lease_id":"x","lease_duration":-5,"data":{"data":{"x":"y"}}}`), want: volume.ErrUnavailable, says: "-5 seconds to live", atRead: true},
		{name: "a lease for ever", answer: write(200, `{"lease_id":"x","lease_duration":99999999999,"data":{"data":{"x":"y"}}}`), want: volume.ErrUnavailable, says: "seconds to live", atRead: true},
		{name: "a login from the past", answer: write(200, `{"auth":{"client_token":"x","lease_duration":-1}}`), want: volume.ErrUnavailable, says: "-1 seconds to live", atLogin: true},
	} {
		for _, login := range []bool{true, false} {
			if login && c.atRead || !login && c.atLogin {
				continue
			}
			where := map[bool]string{true: "login", false: "read"}[login]
			t.Run(c.name+" at "+where, func(t *testing.T) {
				s := newServer(t)
				s.Put("warm/up", map[string]any{"x": "y"})
				v := vaultAt(t, s)
				session, token := v.Open(""), tokenFor(t, "vault")
				if !login {
					if _, err := session.Read(t.Context(), token, Read{Path: "warm/up"}); err != nil {
						t.Fatal(err)
					}
				}
				if c.slow {
					v.service.timeout = 300 * time.Millisecond
				}
				s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
					if strings.HasSuffix(r.URL.Path, "/login") != login {
						return false
					}
					c.answer(w, r)
					return true
				})
				_, err := session.Read(t.Context(), token, Read{Engine: EngineKV, Mount: "secret", Path: "shop"})
				wantErr(t, err, c.want, c.says)
				text := fmt.Sprint(err)
				if strings.Contains(text, canary) || strings.Contains(text, token.Text.Reveal()) || len(text) > 1000 || strings.Contains(text, "\n") {
					t.Errorf("the error shows too much: %.500s", text)
				}
				if !strings.HasPrefix(text, "source it: ") {
					t.Errorf("the error does not name the source: %s", text)
				}
			})
		}
	}
}

func TestAnErrorThatQuotesTheTokenDoesNotShowIt(t *testing.T) {
	s := newServer(t)
	s.Verify = func(_, jwt string) string { return "cannot verify " + jwt }
	token := tokenFor(t, "vault")
	_, err := vaultAt(t, s).Open("").Read(t.Context(), token, Read{Path: "a/b"})
	wantErr(t, err, volume.ErrDenied, "cannot verify ***")
}

func TestACertificateWithAnotherKeyIsRefused(t *testing.T) {
	s := newServer(t)
	session := vaultAt(t, s).Open("")
	token := tokenFor(t, "vault")
	read := Read{Engine: EnginePKI, Mount: "pki", Role: "web", With: map[string]string{"common_name": "x"}}
	first, err := session.Read(t.Context(), token, read)
	if err != nil {
		t.Fatal(err)
	}
	second, err := session.Read(t.Context(), token, read)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(map[string]any){
		"another key":    func(d map[string]any) { d["private_key"] = first.Fields["private_key"].Reveal() },
		"no certificate": func(d map[string]any) { d["certificate"] = "none" },
		"half of one": func(d map[string]any) {
			d["certificate"] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
		},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string]any{"certificate": second.Fields["certificate"].Reveal(), "private_key": second.Fields["private_key"].Reveal()}
			change(data)
			s.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/issue/") {
					fakevault.Answer(w, map[string]any{"data": data})
					return true
				}
				return false
			})
			_, err := session.Read(t.Context(), token, read)
			wantErr(t, err, volume.ErrUnavailable, "certificate")
		})
	}
}

func TestAServiceThatIsAwayIsAskedLessAndLess(t *testing.T) {
	s := newServer(t)
	s.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	v := vaultAt(t, s)
	now := time.Now()
	v.service.circuit.now = func() time.Time { return now }
	token := tokenFor(t, "vault")
	ask := func() error {
		// As many volumes do.
		_, err := v.Open("").Read(t.Context(), token, Read{Path: "a/b"})
		return err
	}
	for range 100 {
		wantErr(t, ask(), volume.ErrUnavailable, "")
	}
	if n := len(s.Requests()); n != toOpen {
		t.Errorf("%d requests of 100 at once, want %d", n, toOpen)
	}
	wantErr(t, ask(), volume.ErrUnavailable, "has not answered since")
	if since, away := v.Away(); !away || !since.Equal(now) {
		t.Errorf("away since %s, %v", since, away)
	}
	// Ten minutes of 50 volumes that ask every second.
	before := len(s.Requests())
	for range 600 {
		now = now.Add(time.Second)
		for range 50 {
			_ = ask()
		}
	}
	if n := len(s.Requests()) - before; n < 600/int(longestOpen/time.Second) || n > 90 {
		t.Errorf("%d requests in ten minutes", n)
	}
	s.Misbehave(nil)
	s.Put("a/b", map[string]any{"x": "y"})
	now = now.Add(longestOpen)
	if err := ask(); err != nil {
		t.Errorf("the service is back, and %v", err)
	}
	if _, away := v.Away(); away {
		t.Error("the service is back and passes for away")
	}
}

func TestACallerThatGoesAwayIsNoFaultOfTheService(t *testing.T) {
	s := newServer(t)
	s.Misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	v := vaultAt(t, s)
	token := tokenFor(t, "vault")
	for range 2 * toOpen {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := v.Open("").Read(ctx, token, Read{Path: "a/b"})
		cancel()
		wantErr(t, err, volume.ErrUnavailable, "")
	}
	if _, away := v.Away(); away {
		t.Error("the service passes for away")
	}
}

func FuzzAnswer(f *testing.F) {
	good, err := json.Marshal(map[string]any{"data": map[string]any{"data": map[string]any{"x": "y"}}, "auth": map[string]any{"client_token": "t", "lease_duration": 60}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, good)
	f.Add(403, []byte(`{"errors":["no"]}`))
	f.Add(200, []byte(`{"lease_id":"a","lease_duration":9e99,"data":{"certificate":"x"}}`))
	f.Add(302, []byte(`x`))
	s := fakevault.New(true)
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		s.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			_, _ = w.Write(body)
			return true
		})
		v := vaultAt(t, s, func(f map[string]any) { delete(f, "ca") })
		for _, r := range []Read{{Engine: EngineKV, Mount: "a", Path: "b"}, {Engine: EnginePKI, Mount: "a", Role: "b"}, {Path: "a/b"}} {
			session := v.Open("")
			c, err := session.Read(t.Context(), tokenFor(t, "vault"), r)
			if err == nil && !c.Expires.IsZero() && c.Expires.Before(c.Issued.Add(-maxLife)) {
				t.Errorf("a life of %s", c.Life())
			}
			_ = session.Close(t.Context())
		}
	})
}
