package credential

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// asked is one request that a service got.
type asked struct {
	path, authorization string
	form                url.Values
	body                string
}

// cloud is a service that answers what it is told to.
type cloud struct {
	*httptest.Server
	asked  []asked
	answer func(path string) (status int, body string)
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := asked{path: r.URL.Path, authorization: r.Header.Get("Authorization")}
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			a.form = r.PostForm
		} else {
			var in json.RawMessage
			if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
				t.Error(err)
			}
			a.body = string(in)
		}
		if r.URL.RawQuery != "" || r.Method != http.MethodPost {
			t.Errorf("%s with the query %q: a token in a URL is in the logs of others", r.Method, r.URL.RawQuery)
		}
		c.asked = append(c.asked, a)
		status, body := c.answer(r.URL.Path)
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *cloud) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}))
}

func TestATokenIsExchangedAsRFC8693Says(t *testing.T) {
	c := newCloud(t)
	c.answer = func(string) (int, string) {
		return 200, `{"access_token":"of-the-service","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":600,"scope":"read"}`
	}
	s := open(t, "oidc", map[string]any{
		"tokenURL": c.URL + "/token", "ca": c.ca(), "audience": "exchange", "requestAudience": "billing", "resource": "https://billing.example", "scopes": []string{"read", "write"},
		"requestedTokenType": typeAccessToken,
	})
	t.Cleanup(s.(*exchange).service.client.CloseIdleConnections)
	if err := s.Validate("", []Read{{}}); err != nil {
		t.Fatal(err)
	}
	token := tokenFor(t, s.Audience())
	got, err := s.Open("").Read(t.Context(), token, Read{})
	if err != nil {
		t.Fatal(err)
	}
	wantFields(t, got, map[string]string{"access_token": "of-the-service", "token_type": "Bearer", "scope": "read", "expires_in": "600"})
	if got.Life() != 10*time.Minute || got.Static {
		t.Errorf("it lives %s, static %v", got.Life(), got.Static)
	}
	want := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token.Text.Reveal()},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}, "audience": {"billing"}, "resource": {"https://billing.example"},
		"scope": {"read write"}, "requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
	}
	if diff := cmp.Diff(want, c.asked[0].form); diff != "" {
		t.Error(diff)
	}
}

func TestGoogleGivesATokenOfAServiceAccount(t *testing.T) {
	c := newCloud(t)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	c.answer = func(path string) (int, string) {
		if path == "/v1/token" {
			return 200, `{"access_token":"federated","token_type":"Bearer","expires_in":3599}`
		}
		return 200, `{"accessToken":"of-the-account","expireTime":"` + end.Format(time.RFC3339) + `"}`
	}
	const provider = "projects/1/locations/global/workloadIdentityPools/k8s/providers/one"
	s := open(t, "gcp", map[string]any{
		"provider": provider, "tokenURL": c.URL + "/v1/token", "impersonationURL": c.URL, "ca": c.ca(), "serviceAccounts": []string{"shop-*"},
	})
	t.Cleanup(s.(*exchange).service.client.CloseIdleConnections)
	t.Cleanup(s.(*exchange).iam.client.CloseIdleConnections)
	if s.Audience() != "https://iam.googleapis.com/"+provider {
		t.Errorf("audience %s", s.Audience())
	}
	wantErr(t, s.Validate("admin@p.iam.gserviceaccount.com", nil), volume.ErrInvalid, "none of the service accounts")
	const account = "shop-web@p.iam.gserviceaccount.com"
	if err := s.Validate(account, []Read{{}}); err != nil {
		t.Fatal(err)
	}
	token := tokenFor(t, s.Audience())
	federated, err := s.Open("").Read(t.Context(), token, Read{})
	if err != nil {
		t.Fatal(err)
	}
	wantFields(t, federated, map[string]string{"access_token": "federated"})
	got, err := s.Open(account).Read(t.Context(), token, Read{})
	if err != nil {
		t.Fatal(err)
	}
	wantFields(t, got, map[string]string{"access_token": "of-the-account", "token_type": "Bearer"})
	if !got.Expires.Equal(end) {
		t.Errorf("expires %s, want %s", got.Expires, end)
	}
	if got := c.asked[0].form.Get("audience"); got != "//iam.googleapis.com/"+provider {
		t.Errorf("audience of the request: %s", got)
	}
	last := c.asked[len(c.asked)-1]
	if last.path != "/v1/projects/-/serviceAccounts/"+account+":generateAccessToken" || last.authorization != "Bearer federated" || last.body != `{"lifetime":"3600s","scope":["https://www.googleapis.com/auth/cloud-platform"]}` {
		t.Errorf("the account was asked for with %+v", last)
	}
}

const awsAnswer = `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><SessionToken>session</SessionToken><SecretAccessKey>key</SecretAccessKey>
<Expiration>%s</Expiration><AccessKeyId>ASIAEXAMPLE</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`

func TestAmazonLetsARoleBeAssumed(t *testing.T) {
	c := newCloud(t)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	c.answer = func(string) (int, string) { return 200, fmt.Sprintf(awsAnswer, end.Format(time.RFC3339)) }
	s := open(t, "aws", map[string]any{"endpoint": c.URL + "/", "ca": c.ca(), "roles": []string{"arn:aws:iam::123456789012:role/shop-*"}})
	t.Cleanup(s.(*aws).service.client.CloseIdleConnections)
	wantErr(t, s.Validate("", nil), volume.ErrInvalid, "none of the ARNs")
	wantErr(t, s.Validate("arn:aws:iam::123456789012:role/admin", nil), volume.ErrInvalid, "none of the ARNs")
	const role = "arn:aws:iam::123456789012:role/shop-web"
	if err := s.Validate(role, []Read{{}}); err != nil {
		t.Fatal(err)
	}
	token := tokenFor(t, s.Audience())
	got, err := s.Open(role).Read(t.Context(), token, Read{})
	if err != nil {
		t.Fatal(err)
	}
	wantFields(t, got, map[string]string{"access_key_id": "ASIAEXAMPLE", "secret_access_key": "key", "session_token": "session", "expiration": end.Format(time.RFC3339)})
	if !got.Expires.Equal(end) {
		t.Errorf("expires %s, want %s", got.Expires, end)
	}
	want := url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {role}, "RoleSessionName": {"shop.web-0"},
		"WebIdentityToken": {token.Text.Reveal()}, "DurationSeconds": {"3600"},
	}
	if diff := cmp.Diff(want, c.asked[0].form); diff != "" {
		t.Error(diff)
	}
}

func TestUnfriendlyAnswersOfCloudsHaveTheirErrors(t *testing.T) {
	past := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	for _, c := range []struct {
		kind, name string
		status     int
		body       string
		want       error
		says       string
	}{
		{"oidc", "refused", 400, `{"error":"invalid_grant","error_description":"the subject token is not valid"}`, volume.ErrDenied, "invalid_grant the subject token is not valid"},
		{"oidc", "refused by a proxy", 403, "<html>" + canary, volume.ErrUnavailable, "403 Forbidden, in no way"},
		{"oidc", "overloaded", 429, "", volume.ErrUnavailable, "429"},
		{"oidc", "broken", 500, canary, volume.ErrUnavailable, "500"},
		{"oidc", "moved", 302, "", volume.ErrUnavailable, "302"},
		{"oidc", "no JSON", 200, canary, volume.ErrUnavailable, "no JSON"},
		{"oidc", "no token", 200, `{"token_type":"` + canary + `"}`, volume.ErrUnavailable, "no access_token"},
		{"oidc", "no number", 200, `{"access_token":"x","expires_in":"` + canary + `"}`, volume.ErrUnavailable, "expires_in"},
		{"oidc", "ended", 200, `{"access_token":"x","expires_in":-3}`, volume.ErrUnavailable, "expires_in"},
		{"oidc", "oversized", 200, `{"access_token":"` + strings.Repeat(canary, 100_000) + `"}`, volume.ErrUnavailable, "larger than 1 MiB"},
		{"aws", "refused", 403, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>`, volume.ErrDenied, "AccessDenied Not authorized"},
		{"aws", "refused by a proxy", 403, "<html>" + canary + "</html>", volume.ErrUnavailable, "in no way"},
		{"aws", "too much", 400, `<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>`, volume.ErrUnavailable, "Throttling Rate"},
		{"aws", "without the issuer", 400, `<ErrorResponse><Error><Code>IDPCommunicationError</Code></Error></ErrorResponse>`, volume.ErrUnavailable, "IDPCommunicationError"},
		{"aws", "without the keys", 400, `<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements</Message></Error></ErrorResponse>`, volume.ErrUnavailable, "cannot fetch the keys"},
		{"aws", "another issuer", 400, `<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>No OpenIDConnect provider found in your account</Message></Error></ErrorResponse>`, volume.ErrDenied, "InvalidIdentityToken No"},
		{"oidc", "without the keys", 400, `{"error":"invalid_grant","error_description":"Error connecting to the given credential's issuer."}`, volume.ErrUnavailable, "cannot fetch the keys"},
		{"gcp", "a bad request", 400, `{"error":{"status":"INVALID_ARGUMENT","message":"Request contains an invalid argument"}}`, volume.ErrInvalid, "INVALID_ARGUMENT Request"},
		{"oidc", "not now", 400, `{"error":"temporarily_unavailable"}`, volume.ErrUnavailable, "temporarily_unavailable"},
		{"gcp", "refused by a proxy", 404, `{"message":"` + canary + `"}`, volume.ErrUnavailable, "in no way"},
		{"gcp", "not now", 403, `{"error":{"status":"UNAVAILABLE"}}`, volume.ErrUnavailable, "UNAVAILABLE"},
		{"aws", "no XML", 200, canary, volume.ErrUnavailable, "not that of a security token service"},
		{"aws", "nothing in it", 200, `<a></a>`, volume.ErrUnavailable, "no credentials"},
		{"aws", "ended", 200, fmt.Sprintf(awsAnswer, past), volume.ErrUnavailable, "valid now"},
		{"gcp", "refused", 403, `{"error":{"status":"PERMISSION_DENIED","message":"Permission 'iam.serviceAccounts.getAccessToken' denied"}}`, volume.ErrDenied, "PERMISSION_DENIED Permission"},
		{"gcp", "nothing in it", 200, `{}`, volume.ErrUnavailable, "no token"},
		{"gcp", "ended", 200, `{"accessToken":"x","expireTime":"` + past + `"}`, volume.ErrUnavailable, "valid now"},
	} {
		t.Run(c.kind+" "+c.name, func(t *testing.T) {
			server := newCloud(t)
			server.answer = func(path string) (int, string) {
				if path == "/federation" {
					return 200, `{"access_token":"federated","expires_in":60}`
				}
				return c.status, c.body
			}
			fields, role := map[string]any{"ca": server.ca()}, ""
			switch c.kind {
			case "oidc":
				fields["tokenURL"], fields["audience"] = server.URL+"/token", "exchange"
			case "aws":
				role = "arn:x"
				fields["endpoint"], fields["roles"] = server.URL, []string{role}
			case "gcp":
				role = "a@b"
				fields["provider"], fields["tokenURL"] = "projects/1/providers/x", server.URL+"/federation"
				fields["impersonationURL"], fields["serviceAccounts"] = server.URL, []string{role}
			}
			s := open(t, c.kind, fields)
			defer closeIdle(s)
			token := tokenFor(t, s.Audience())
			_, err := s.Open(role).Read(t.Context(), token, Read{})
			wantErr(t, err, c.want, c.says)
			if text := fmt.Sprint(err); strings.Contains(text, canary) || strings.Contains(text, token.Text.Reveal()) {
				t.Errorf("the error shows too much: %.500s", text)
			}
		})
	}
}

func TestEachPartitionOfAWSHasItsDomain(t *testing.T) {
	for region, want := range map[string]string{
		"eu-central-1":  "https://sts.eu-central-1.amazonaws.com/",
		"us-gov-west-1": "https://sts.us-gov-west-1.amazonaws.com/",
		"cn-north-1":    "https://sts.cn-north-1.amazonaws.com.cn/",
	} {
		if got := open(t, "aws", map[string]any{"region": region, "roles": []string{"a"}}).(*aws).endpoint; got != want {
			t.Errorf("%s is asked at %s, want %s", region, got, want)
		}
	}
}

func closeIdle(s Source) {
	switch s := s.(type) {
	case *exchange:
		s.service.client.CloseIdleConnections()
		if s.iam != nil {
			s.iam.client.CloseIdleConnections()
		}
	case *aws:
		s.service.client.CloseIdleConnections()
	}
}

func TestTheTokenItself(t *testing.T) {
	s := open(t, "token", map[string]any{"audience": "mine"})
	token := tokenFor(t, "mine")
	got, err := s.Open("").Read(t.Context(), token, Read{})
	if err != nil || !got.Expires.Equal(token.Claims.Expires) || !got.Static {
		t.Errorf("expires %s, static %v, %v", got.Expires, got.Static, err)
	}
	wantFields(t, got, map[string]string{"token": token.Text.Reveal()})
	wantErr(t, s.Validate("someone", nil), volume.ErrInvalid, "no roles")
	wantErr(t, s.Validate("", []Read{{Path: "x"}}), volume.ErrInvalid, "write {}")
}

func TestASourcesFileThatMakesNoSenseIsRefused(t *testing.T) {
	const vault = `address: "https://v:8200", audience: a, auth: {method: jwt}`
	for _, c := range []struct{ name, text, says string }{
		{"empty", "", "no sources"},
		{"no YAML", "{", ""},
		{"unknown field", "sources: {a: {vault: {" + vault + ", uri: x}}}", "uri"},
		{"unknown kind", "sources: {a: {consul: {}}}", "consul"},
		{"another top", "sauces: {}", "sauces"},
		{"no kind", "sources: {a: {}}", "0 kinds"},
		{"two kinds", "sources: {a: {token: {audience: x}, vault: {" + vault + "}}}", "2 kinds"},
		{"bad name", "sources: {A_b: {token: {audience: x}}}", `source "A_b"`},
		{"twice", "sources: {a: {token: {audience: x}}, a: {token: {audience: y}}}", "already set"},
		{"plain HTTP", "sources: {a: {vault: {" + strings.Replace(vault, "https", "http", 1) + "}}}", "plaintext: true"},
		{"no URL", `sources: {a: {vault: {address: "v:8200", audience: a, auth: {method: jwt}}}}`, "want a URL"},
		{"a password in the URL", `sources: {a: {vault: {address: "https://u:p@v:8200", audience: a, auth: {method: jwt}}}}`, "want a URL"},
		{"another scheme", `sources: {a: {vault: {address: "unix:///v", audience: a, auth: {method: jwt}}}}`, "want"},
		{"no audience", `sources: {a: {vault: {address: "https://v:8200", auth: {method: jwt}}}}`, "audience is missing"},
		{"no method", `sources: {a: {vault: {address: "https://v:8200", audience: a}}}`, "auth.method"},
		{"a mount that leads away", "sources: {a: {vault: {" + strings.Replace(vault, "jwt", "jwt, mount: ../x", 1) + "}}}", "auth.mount"},
		{"no certificate", "sources: {a: {vault: {" + vault + ", ca: none}}}", "no certificate"},
		{"no file", "sources: {a: {vault: {" + vault + ", caFile: /does/not/exist}}}", "caFile"},
		{"two of them", "sources: {a: {vault: {" + vault + ", ca: one, caFile: another}}}", "both ca and caFile"},
		{"no provider", "sources: {a: {gcp: {provider: x}}}", "provider"},
		{"no region", "sources: {a: {aws: {region: 'x/y', roles: [a]}}}", "region"},
		{"a region of a secret partition", "sources: {a: {aws: {region: us-iso-east-1, roles: [a]}}}", "set endpoint"},
		{"a region of another partition", "sources: {a: {aws: {region: eusc-de-east-1, roles: [a]}}}", "set endpoint"},
		{"no roles", "sources: {a: {aws: {region: eu-central-1}}}", "roles is missing"},
		{"a short life", "sources: {a: {aws: {region: eu-central-1, roles: [a], seconds: 60}}}", "900 to 43200"},
		{"token for the API server", "sources: {a: {token: {}}}", "audience is missing"},
		{"exchange without audience", "sources: {a: {oidc: {tokenURL: 'https://x/y'}}}", "audience is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			wantErr(t, err, volume.ErrInvalid, c.says)
		})
	}
	if _, err := Parse([]byte("sources: {a: {vault: {" + vault + "}}, b: {vault: {" + strings.Replace(vault, "https", "http", 1) + ", plaintext: true}}}")); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("sources: {a: {token: {audience: x}}}"))
	f.Add([]byte(`sources: {a: {vault: {address: "https://v:8200", audience: a, auth: {method: jwt}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		for _, name := range s.Names() {
			source, err := s.Find(name)
			if err != nil || source.Audience() == "" {
				t.Errorf("source %s: audience %q, %v", name, source.Audience(), err)
			}
		}
	})
}
