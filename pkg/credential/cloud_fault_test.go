package credential

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestEveryAnswerOfAnUnfriendlyCloudHasItsError gives each answer to each request.
func TestEveryAnswerOfAnUnfriendlyCloudHasItsError(t *testing.T) {
	write := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, text)
		}
	}
	// own is an error as the service of each request writes it.
	own := map[string]string{
		ofOIDC:          `{"error":"%s","error_description":"in its own words"}`,
		ofFederation:    `{"error":"%s","error_description":"in its own words"}`,
		ofImpersonation: `{"error":{"status":"%s","message":"in its own words"}}`,
		ofAWS:           `<ErrorResponse><Error><Code>%s</Code><Message>in its own words</Message></Error></ErrorResponse>`,
	}
	for _, c := range []struct {
		name string
		// Either answer, or status and the service's own error, whose code is "Any" unless
		// there is one that must not show.
		answer http.HandlerFunc
		status int
		code   string
		want   error
		says   string
		// slow is the time limit of a request, if that is where it ends.
		slow time.Duration
		// away says that the service passes for away after it.
		away bool
	}{
		{name: "401", status: 401, want: volume.ErrDenied, says: "in its own words"},
		{name: "403", status: 403, want: volume.ErrDenied, says: "in its own words"},
		{name: "a password for a code", status: 403, code: "PassWordOfLettersAlone", want: volume.ErrDenied, says: "*** in its own words"},
		{name: "a long code", status: 403, code: strings.Repeat("a", 10_000), want: volume.ErrDenied, says: "*** in its own words"},
		{name: "a code of many words", status: 403, code: strings.Repeat("a_", 10_000), want: volume.ErrDenied, says: " in its own words"},
		{name: "404", status: 404, want: volume.ErrPrecondition, says: "in its own words"},
		{name: "429", status: 429, want: volume.ErrUnavailable, says: "429 Too Many Requests: Any in its own words"},
		{name: "429 of a proxy", answer: write(429, ""), want: volume.ErrUnavailable, says: "429 Too Many Requests, in no way", away: true},
		{name: "500", status: 500, want: volume.ErrUnavailable, says: "500 Internal Server Error: Any in its own words"},
		{name: "502 of a proxy", answer: write(502, "<html>"+canary+"</html>"), want: volume.ErrUnavailable, says: "502 Bad Gateway, in no way", away: true},
		{name: "503", status: 503, want: volume.ErrUnavailable, says: "503 Service Unavailable: Any in its own words", away: true},
		{name: "503 of a proxy", answer: write(503, ""), want: volume.ErrUnavailable, says: "503 Service Unavailable, in no way", away: true},
		{name: "504", answer: write(504, "null"), want: volume.ErrUnavailable, says: "504 Gateway Timeout, in no way", away: true},
		{name: "slow", answer: hang, want: volume.ErrUnavailable, says: "deadline", slow: 300 * time.Millisecond, away: true},
		{name: "slow body", answer: func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprint(w, canary)
			w.(http.Flusher).Flush()
			hang(w, r)
		}, want: volume.ErrUnavailable, says: "read its answer", slow: 2 * time.Second, away: true},
		{name: "hangs up", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: volume.ErrUnavailable, says: "", away: true},
		{name: "garbage", answer: write(200, "\x00\xff{<"+canary), want: volume.ErrUnavailable, says: "its answer is"},
		{name: "half of it", answer: write(200, `{"access_token":"`+canary), want: volume.ErrUnavailable, says: "its answer is"},
		{name: "another JSON", answer: write(200, `["`+canary+`"]`), want: volume.ErrUnavailable, says: "its answer is"},
		{name: "nothing", answer: write(200, ""), want: volume.ErrUnavailable, says: "its answer is"},
		{name: "204", answer: write(204, ""), want: volume.ErrUnavailable, says: "its answer is"},
		{name: "oversized", answer: write(200, `{"access_token":"`+strings.Repeat(canary, 100_000)+`"}`), want: volume.ErrUnavailable, says: "larger than 1 MiB"},
		{name: "endless", answer: func(w http.ResponseWriter, _ *http.Request) {
			for range 4 << 10 {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}, want: volume.ErrUnavailable, says: "larger than 1 MiB"},
		{name: "oversized error", answer: write(400, strings.Repeat(canary, 100_000)), want: volume.ErrUnavailable, says: "larger than 1 MiB"},
		{name: "redirect", answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/?"+canary, http.StatusTemporaryRedirect)
		}, want: volume.ErrUnavailable, says: "it redirects to elsewhere.example (307 Temporary Redirect)", away: true},
	} {
		for request, format := range own {
			t.Run(c.name+" of "+request, func(t *testing.T) {
				answer := c.answer
				if answer == nil {
					answer = write(c.status, fmt.Sprintf(format, cmp.Or(c.code, "Any")))
				}
				server := newFaultyCloud(t, request, answer)
				s, role := cloudAt(t, request, server.URL, server.ca())
				if c.slow > 0 {
					for _, service := range s.(asker).services() {
						if request != ofImpersonation || service == s.(*exchange).iam {
							service.timeout = c.slow
						}
					}
				}
				token := tokenFor(t, s.Audience())
				_, err := s.Open(role).Read(t.Context(), token, Read{})
				wantErr(t, err, c.want, c.says)
				text := fmt.Sprint(err)
				if strings.Contains(text, canary) || strings.Contains(text, token.Text.Reveal()) || strings.Contains(text, "federated") || len(text) > 1000 || c.code != "" && strings.Contains(text, c.code) {
					t.Errorf("the error shows too much: %.500s", text)
				}
				// A refusal where the pod's token is shown is one of the login.
				if refused := !errors.Is(c.want, volume.ErrUnavailable); errors.Is(err, ErrLogin) != (refused && request != ofImpersonation) {
					t.Errorf("it passes for a refused login, or for none: %v", err)
				}
				if _, away := s.Away(); away != c.away && !strings.Contains(c.says, "its answer is") {
					t.Errorf("away is %v, want %v", away, c.away)
				}
			})
		}
	}
}

// TestACloudObeysContexts has the caller go away while the service is slow.
func TestACloudObeysContexts(t *testing.T) {
	for _, request := range []string{ofOIDC, ofAWS, ofFederation, ofImpersonation} {
		t.Run(request, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			server := newFaultyCloud(t, request, func(w http.ResponseWriter, r *http.Request) {
				cancel()
				hang(w, r)
			})
			s, role := cloudAt(t, request, server.URL, server.ca())
			begin := time.Now()
			_, err := s.Open(role).Read(ctx, tokenFor(t, s.Audience()), Read{})
			wantErr(t, err, volume.ErrUnavailable, "canceled")
			if took := time.Since(begin); took > requestTime/2 {
				t.Errorf("it took %s", took)
			}
			if _, away := s.Away(); away {
				t.Error("the service passes for away")
			}
		})
	}
}
