package rpc

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func jwt(header, payload, signature string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(header)) + "." + e([]byte(payload)) + "." + e([]byte(signature))
}

var token = jwt(`{"alg":"RS256","kid":"k"}`, `{"aud":["vault"],"sub":"system:serviceaccount:default:app"}`, "canary signature of a token")

func TestTokensLeaveATextAndTheRestStays(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"plain", "token " + token + " was refused", "token ***stripped*** was refused"},
		{"glued to its neighbours", "x" + token + "/y", "x***stripped***/y"},
		{"in JSON", `{"vault":{"token":"` + token + `"}}`, `{"vault":{"token":"***stripped***"}}`},
		{"two", token + "," + token, "***stripped***,***stripped***"},
		{"without its signature", strings.Join(strings.Split(token, ".")[:2], "."), "***stripped***"},
		{"cut in the payload", token[:60], "***stripped***"},
		{"no algorithm", "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.", "***stripped***"},
		{"encrypted, five parts", "eyJhbGci.AAA.BBB.CCC.DDD", "***stripped***"},
		{"padded", "eyJhbGciOiJub25lIn0=.eyJhIjoxfQ==.c2ln", "***stripped***"},
		{"spaces in the header", jwt(`{ "alg": "RS256" }`, `{ "aud": "vault" }`, "canary signature of a token"), "***stripped***"},
		{"newline in the header", jwt("{\n\"alg\": \"RS256\" }", `{ "aud": "vault" }`, "canary signature of a token"), "***stripped***"},
		{"an id", volumeID("v"), volumeID("v")},
		{"a host", "ewallet-service.production.svc:443", "ewallet-service.production.svc:443"},
		{"a sentence", "eyes. They see.", "eyes. They see."},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Redact(c.text); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// canaries are secrets that must be in no sink. The first is not a JWT.
var canaries = []string{"correct horse battery", token, "opaque-token-of-vault", "flag-password", "multi-line-key-material"}

func canaryRequest() *csi.NodePublishVolumeRequest {
	tokens := `{"vault":{"token":"opaque-token-of-vault","expirationTimestamp":"2030-01-01T00:00:00Z"},"":{"token":"` + token + `"}}`
	return &csi.NodePublishVolumeRequest{
		VolumeId: volumeID("v"), TargetPath: "/t", StagingTargetPath: "/s/" + token,
		Secrets: map[string]string{
			"password": "correct horse battery", TokensKey: tokens,
			"key": "-----BEGIN KEY-----\nmulti-line-key-material\n-----END KEY-----\n",
		},
		VolumeContext:    map[string]string{TokensKey: tokens, "copied": token},
		VolumeCapability: mounted("ext4", "password=flag-password", "noatime"),
	}
}

// TestNoSecretReachesAnySink makes calls with secrets whose driver does the worst
// it can, and looks at everything that leaves the process.
func TestNoSecretReachesAnySink(t *testing.T) {
	all := strings.Join(canaries, " and ")
	tokenOnly := token
	outcomes := map[string]func() error{
		"success":         func() error { return nil },
		"plain error":     func() error { return errors.New("login with " + all) },
		"quoted error":    func() error { return fmt.Errorf("login with %q: %w", all, volume.ErrUnavailable) },
		"ready status":    func() error { return status.Error(codes.PermissionDenied, all) },
		"wrapped status":  func() error { return fmt.Errorf("ask vault: %w", status.Error(codes.PermissionDenied, all)) },
		"panic":           func() error { panic(all) },
		"panic of error":  func() error { panic(errors.New(all)) },
		"panic of struct": func() error { panic(struct{ Token string }{tokenOnly}) },
		"long error":      func() error { return errors.New(strings.Repeat("x", maxErrorText-10) + all) },
		"echo of request": func() error { return fmt.Errorf("cannot handle %v", canaryRequest()) },
	}
	for name, outcome := range outcomes {
		t.Run(name, func(t *testing.T) {
			d := newMemoryDriver()
			d.during = func(_ context.Context, req any) error {
				if _, ok := req.(*csi.NodePublishVolumeRequest); ok {
					return outcome()
				}
				return nil
			}
			r := serve(t, d, nil)
			_, err := r.node.NodePublishVolume(t.Context(), canaryRequest())
			if (err == nil) != (name == "success") {
				t.Errorf("the call ended in %v", err)
			}
			scrape := httptest.NewRecorder()
			r.metrics.Handler().ServeHTTP(scrape, httptest.NewRequest("GET", "/", nil))
			sinks := map[string]string{"log": r.log.String(), "status": fmt.Sprint(err), "metrics": scrape.Body.String()}
			for sink, text := range sinks {
				for _, canary := range canaries {
					if strings.Contains(text, canary) {
						t.Errorf("%q is in the %s:\n%s", canary, sink, text)
					}
				}
				// Half a token is a leak as well.
				if signature := token[strings.LastIndex(token, ".")+1:]; strings.Contains(text, signature[:10]) {
					t.Errorf("part of a token is in the %s", sink)
				}
			}
			if strings.Contains(sinks["log"], "noatime") && name != "echo of request" {
				t.Errorf("mount options are in the log: %s", sinks["log"])
			}
			if line := r.log.lines(t, "NodePublishVolume"); len(line) != 1 || !strings.Contains(fmt.Sprint(line[0][KeyRequest]), "volume_context") {
				t.Errorf("the log did not show the request: %v", line)
			}
		})
	}
}

func TestErrorsStillSayWhichMountOptionTheyAreAbout(t *testing.T) {
	s := secretsOf(canaryRequest())
	if got, want := s.scrub(`mount option "noatime" and option "password=flag-password"`), `mount option "noatime" and option "password=***stripped***"`; got != want {
		t.Errorf("got %q", got)
	}
}

func TestEachValueInAListOfMountOptionsIsSecret(t *testing.T) {
	s := secretsOf(&csi.NodePublishVolumeRequest{VolumeCapability: mounted("ext4", "data=first,password=flag-password,user=flag-user")})
	if got, want := s.scrub(`option "password=flag-password" of "user=flag-user"`), `option "password=***stripped***" of "user=***stripped***"`; got != want {
		t.Errorf("got %q", got)
	}
}

func TestASecretOfMegabytesIsScrubbedInNoTime(t *testing.T) {
	for name, secret := range map[string]string{
		"one letter": strings.Repeat("A", 5<<20),
		"one line":   strings.Repeat("AB", 2<<20) + "\n" + strings.Repeat("A", 1<<20),
	} {
		start := time.Now()
		s := secretsOf(&csi.CreateVolumeRequest{Secrets: map[string]string{"k": secret}})
		if got := s.scrub("login with " + secret + " refused"); strings.Contains(got, "AAAA") || !strings.HasSuffix(got, " refused") {
			t.Errorf("%s: got %d bytes", name, len(got))
		}
		if got, want := s.scrub("login refused"), "login refused"; got != want {
			t.Errorf("%s: got %q", name, got)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
	}
}

func TestASecretThatIsPartOfTheMarkIsNotLookedForInIt(t *testing.T) {
	s := secretsOf(&csi.CreateVolumeRequest{Secrets: map[string]string{"a": "hunter22", "b": "stripped", "c": "hunter2"}})
	if got, want := s.scrub("hunter22 hunter2 stripped"), "***stripped*** ***stripped*** ***stripped***"; got != want {
		t.Errorf("got %q", got)
	}
}

func TestSecretOfTheCallerThatStartedIsNotShownToTheOneThatJoined(t *testing.T) {
	d := newMemoryDriver()
	g := newGate()
	d.during = func(ctx context.Context, req any) error {
		r, ok := req.(*csi.CreateVolumeRequest)
		if !ok {
			return nil
		}
		_ = g.pass(ctx, req)
		return errors.New("login with " + r.GetSecrets()["password"])
	}
	r := serve(t, d, nil)
	answers := make(chan error, 2)
	for i, password := range []string{"secret-of-the-first", "secret-of-the-second"} {
		go func() {
			_, err := r.controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "v", Secrets: map[string]string{"password": password}})
			answers <- err
		}()
		eventually(t, "the caller waits", func() bool { return r.callers() == i+1 })
	}
	close(g.open)
	for range 2 {
		if err := <-answers; err == nil || strings.Contains(err.Error(), "secret-of") {
			t.Errorf("got %v", err)
		}
	}
	if strings.Contains(r.log.String(), "secret-of") {
		t.Errorf("log: %s", r.log)
	}
}

func TestLoggerRedactsEveryKindOfValue(t *testing.T) {
	var b logBuffer
	logger := slog.New(RedactHandler(RedactHandler(b.logger().Handler())))
	logger = logger.With("with", token).WithGroup("group").With("inGroup", errors.New(token))
	logger.Info("message "+token,
		"string", token, "error", fmt.Errorf("wrapped: %w", errors.New(token)), "bytes", []byte("x"),
		"struct", struct{ A, B string }{token, "kept"}, "map", map[string]string{"k": token},
		slog.Group("nested", "deep", token), "valuer", valuer{}, "number", 7)
	if strings.Contains(b.String(), token) {
		t.Errorf("log: %s", &b)
	}
	for _, kept := range []string{`"number":7`, "kept", "wrapped: ***stripped***", `"nested":{"deep":"***stripped***"}`} {
		if !strings.Contains(b.String(), kept) {
			t.Errorf("lost %s: %s", kept, &b)
		}
	}
}

type valuer struct{}

func (valuer) LogValue() slog.Value { return slog.StringValue(token) }

func TestCutKeepsWholeCharacters(t *testing.T) {
	if got := cut("aäöü", 4); got != "aä... (7 bytes)" {
		t.Errorf("got %q", got)
	}
	if got := cut("abc", 3); got != "abc" {
		t.Errorf("got %q", got)
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("before ", `"alg":"RS256"}`, `{"aud":"vault"}`, "signature", " after")
	f.Add("eyJ.", "", "", "", ".eyJ")
	f.Add("0", "", "", "", "0")
	f.Fuzz(func(t *testing.T, before, header, payload, signature, after string) {
		secret := jwt(`{"`+header, payload, signature)
		if got := Redact(before + secret + after); strings.Contains(got, secret) {
			t.Errorf("survived: %q", got)
		}
		if once := Redact(before + secret + after); Redact(once) != once {
			t.Errorf("not stable: %q", once)
		}
		// A secret of any shape leaves an error about its request.
		if secret := before + payload + after; len(secret) >= minSecret && !strings.Contains(stripped, secret) {
			s := secretsOf(&csi.CreateVolumeRequest{Secrets: map[string]string{"k": secret}})
			if got := s.scrub("login with " + secret + " refused"); strings.Contains(got, secret) &&
				!strings.Contains("login with "+stripped+" refused", secret) {
				t.Errorf("survived: %q", got)
			}
		}
	})
}
