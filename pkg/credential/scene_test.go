package credential

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/test/fakevault"
	"github.com/holdfast-csi/holdfast/test/issuer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func thePod() podtoken.Pod {
	return podtoken.Pod{Namespace: "shop", Name: "web-0", UID: "0b6f1c7e-5f0b-4a54-9d43-0d6a8a4a1f10", ServiceAccount: "web"}
}

// tokenFor is a token of the pod for an audience.
func tokenFor(t testing.TB, audience string) podtoken.Token {
	t.Helper()
	return tokenOf(t, thePod(), audience)
}

func tokenOf(t testing.TB, pod podtoken.Pod, audience string) podtoken.Token {
	t.Helper()
	set, err := podtoken.Read(map[string]string{
		podtoken.KeyTokens: issuer.Tokens(map[string]string{audience: issuer.New().Token(pod, audience, time.Hour)}),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := set.For(audience)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// open makes the only source of a file.
func open(t testing.TB, kind string, fields map[string]any) Source {
	t.Helper()
	source, err := tryOpen(kind, fields)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func tryOpen(kind string, fields map[string]any) (Source, error) {
	text, err := json.Marshal(map[string]any{"sources": map[string]any{"it": map[string]any{kind: fields}}})
	if err != nil {
		return nil, err
	}
	sources, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return sources.Find("it")
}

func newServer(t testing.TB) *fakevault.Server {
	t.Helper()
	s := fakevault.New(false)
	t.Cleanup(s.Close)
	return s
}

// vaultAt is a source for a fake Vault, with fields changed.
func vaultAt(t testing.TB, s *fakevault.Server, change ...func(fields map[string]any)) *vault {
	t.Helper()
	fields := map[string]any{
		"address": s.URL, "ca": s.ServerCA(), "audience": "vault", "auth": map[string]any{"method": "kubernetes", "role": "web"},
	}
	for _, c := range change {
		c(fields)
	}
	v := open(t, "vault", fields).(*vault)
	t.Cleanup(v.service.client.CloseIdleConnections)
	return v
}

func wantErr(t testing.TB, err, want error, says string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), says) {
		t.Errorf("got error %v, want %v with %q", err, want, says)
	}
}

// wantFields compares a credential with what it should have, in the clear.
func wantFields(t testing.TB, c Credential, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got := c.Fields[name].Reveal(); got != text {
			t.Errorf("field %s is %q, want %q", name, got, text)
		}
	}
	if len(c.Fields) < len(want) {
		t.Errorf("%d fields, want %d", len(c.Fields), len(want))
	}
}

// quoted is a text of several lines as YAML takes it.
func quoted(text string) string {
	out, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// hang answers nothing until the client has gone, and nothing then: the end of an
// answer may reach a client that is about to close its connection.
func hang(_ http.ResponseWriter, r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}
