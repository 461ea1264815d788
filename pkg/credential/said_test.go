package credential

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/test/fakevault"
)

func TestWhatAServiceSaysLosesWhatMayBeASecret(t *testing.T) {
	shown := []string{"log", "in", "at", "auth/kubernetes/login", "as", "role", "shop-2a", "arn:aws:iam::123456789012:role/shop", "vault.example:8200"}
	for _, c := range []struct{ text, want string }{
		// What services say.
		{"permission denied", "permission denied"},
		{"1 error occurred:\n\t* permission denied\n\n", "1 error occurred: * permission denied"},
		{`invalid role name "shop-2a"`, `invalid role name "shop-2a"`},
		{"service account name not authorized", "service account name not authorized"},
		{"invalid audience (aud) claim: audience claim does not match any expected audience", "invalid audience (aud) claim: audience claim does not match any expected audience"},
		{"error verifying token signature: no known key successfully validated the token signature", "error verifying token signature: no known key successfully validated the token signature"},
		{`no handler for route "auth/kubernetes/login". route entry not found.`, `no handler for route "auth/kubernetes/login". route entry not found.`},
		{"dial tcp 10.96.0.1:5432: connect: connection refused", "dial tcp 10.96.0.1:5432: connect: connection refused"},
		{"dial tcp: lookup vault.example on 10.96.0.10:53: no such host", "dial tcp: lookup vault.example on 10.96.0.10:53: no such host"},
		{"Get https://vault.example:8200/v1/auth/kubernetes/login: EOF", "Get https://vault.example:8200/v1/auth/kubernetes/login: EOF"},
		{"tls: failed to verify certificate: x509: certificate signed by unknown authority", "tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		{"net/http: timeout awaiting response headers", "net/http: timeout awaiting response headers"},
		{"User is not authorized to perform: sts on arn:aws:iam::123456789012:role/shop", "User is not authorized to perform: sts on arn:aws:iam::123456789012:role/shop"},
		{"", ""},
		// What a secret may look like.
		{"cannot set password s3cret", "cannot set password ***"},
		{`CREATE USER x WITH PASSWORD 'A1a-Bc9dEf'`, `*** USER x WITH *** '***'`},
		{`{"password":"hunter2","pin":"471199"}`, `{"password":"***","pin":"***"}`},
		{"password=Tr0ub4dor&3, user=app", "***, user=app"},
		{"hvs.CAESIJlWh7x", "***"},
		{"token s.abcdefgh1234", "token ***"},
		{"key AKIAIOSFODNN7EXAMPLE and wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "key *** and ***"},
		{"c2VjcmV0LXZhbHVl", "***"},
		{"correct-horse-battery-staple", "***"},
		{"correcthorsebatterystaple", "***"},
		{"MIIEowIBAAKCAQEA+abc/def==", "***"},
		{"0b6f1c7e-5f0b-4a54-9d43-0d6a8a4a1f10", "***"},
		{"пароль", "***"},
		{"shop-2a-and-s3cret", "***"},
		{"the token the-token-itself is bad", "the token *** is bad"},
	} {
		if got := said(c.text, shown, "the-token-itself", ""); got != c.want {
			t.Errorf("of %q is shown %q, want %q", c.text, got, c.want)
		}
	}
	for _, long := range []string{strings.Repeat("no ", 10_000), strings.Repeat("x", 1<<20), strings.Repeat("ß", 1<<18)} {
		if got := said(long, shown); len(got) > maxSaid+len("...") {
			t.Errorf("%d bytes of %d are shown", len(got), len(long))
		}
	}
}

func FuzzSaid(f *testing.F) {
	f.Add("permission denied for ", " in namespace")
	f.Add("x=\"", "\"")
	f.Add(strings.Repeat("no ", 5000), "!")
	const word = "hunter2Hunter2"
	f.Fuzz(func(t *testing.T, before, after string) {
		got := said(before+" "+word+" "+after, nil)
		if strings.Contains(got, word) && !strings.Contains(before+after, word) || len(got) > maxSaid+len("...") || strings.ContainsAny(got, "\n\r\x00\x1b") {
			t.Errorf("%q", got)
		}
	})
}

// TestAServiceThatQuotesWhatItHasAndGotIsNotQuoted has every request of every kind
// refused with what was in it, and with what should have been in the answer.
func TestAServiceThatQuotesWhatItHasAndGotIsNotQuoted(t *testing.T) {
	const password = "canary7Qx-password"
	v := newServer(t)
	v.Put("secret/data/shop", map[string]any{"password": password})
	vault := vaultAt(t, v)
	cloud := newCloud(t)
	sources := map[string]Source{
		"vault": vault,
		"oidc":  open(t, "oidc", map[string]any{"tokenURL": cloud.URL + "/token", "ca": cloud.ca(), "audience": "vault"}),
		"aws":   open(t, "aws", map[string]any{"endpoint": cloud.URL, "ca": cloud.ca(), "audience": "vault", "roles": []string{"arn:*"}}),
		"gcp": open(t, "gcp", map[string]any{
			"provider": "projects/1/providers/x", "tokenURL": cloud.URL + "/federation", "impersonationURL": cloud.URL, "ca": cloud.ca(), "audience": "vault",
			"serviceAccounts": []string{"*"},
		}),
	}
	roles := map[string]string{"vault": "web", "aws": "arn:aws:iam::1:role/x", "gcp": "a@b"}
	token := tokenFor(t, "vault")
	secrets := []string{password, token.Text.Reveal(), "canary7Qx-federated", "hvs.login"}
	var login string
	v.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		login = r.Header.Get("X-Vault-Token")
		if login == "" {
			return false // the login itself is fine
		}
		fakevault.Refuse(w, http.StatusForbidden, "permission denied: token "+login+" may not read "+password, fmt.Sprintf(`{"jwt":%q}`, token.Text.Reveal()))
		return true
	})
	refusals := map[string]string{
		"oidc": `{"error":"invalid_grant","error_description":"%s and %s"}`,
		"aws":  `<ErrorResponse><Error><Code>AccessDenied</Code><Message>%s and %s</Message></Error></ErrorResponse>`,
		"gcp":  `{"error":{"status":"PERMISSION_DENIED","message":"%s and %s with Bearer canary7Qx-federated"}}`,
	}
	for kind, source := range sources {
		t.Run(kind, func(t *testing.T) {
			cloud.answer = func(path string) (int, string) {
				if path == "/federation" {
					return 200, `{"access_token":"canary7Qx-federated","expires_in":60}`
				}
				return 403, fmt.Sprintf(refusals[kind], token.Text.Reveal(), password)
			}
			defer closeIdle(source)
			read := Read{}
			if kind == "vault" {
				read = Read{Engine: EngineKV, Mount: "secret", Path: "shop"}
			}
			session := source.Open(roles[kind])
			_, err := session.Read(t.Context(), token, read)
			errs := []error{err, session.Check(t.Context(), podtoken.Token{Text: token.Text, Claims: token.Claims}, []Read{read}), session.Close(context.WithoutCancel(t.Context()))}
			if err == nil {
				t.Fatal("it was not refused")
			}
			text := fmt.Sprint(errs)
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("a secret shows: %s", text)
				}
			}
			if !strings.Contains(text, "***") {
				t.Errorf("nothing was taken out: %s", text)
			}
		})
	}
	if !strings.HasPrefix(login, "hvs.login") {
		t.Errorf("the login was %q: this test looks for another", login)
	}
}
