package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// OIDCConfig is a source of kind oidc: a token service that exchanges tokens as RFC
// 8693 says.
type OIDCConfig struct {
	// TokenURL is where tokens are exchanged.
	TokenURL string `json:"tokenURL"`
	Trust
	// Audience is that of the pod's tokens which the service takes.
	Audience string `json:"audience"`
	// RequestAudience, Resource, Scopes and RequestedTokenType go into the request as
	// they are (RFC 8693, section 2.1); what is empty is left out.
	RequestAudience    string   `json:"requestAudience,omitempty"`
	Resource           string   `json:"resource,omitempty"`
	Scopes             []string `json:"scopes,omitempty"`
	RequestedTokenType string   `json:"requestedTokenType,omitempty"`
}

// GCPConfig is a source of kind gcp: workload identity federation of Google Cloud,
// and after it, if a service account is named, its impersonation.
type GCPConfig struct {
	// Provider is the workload identity pool provider, such as
	// projects/123/locations/global/workloadIdentityPools/POOL/providers/NAME.
	Provider string `json:"provider"`
	// Audience is that of the pod's tokens; "" means https://iam.googleapis.com/ and
	// the provider, which Google takes unless told otherwise.
	Audience string `json:"audience,omitempty"`
	// Scopes of the token; none means https://www.googleapis.com/auth/cloud-platform.
	Scopes []string `json:"scopes,omitempty"`
	// ServiceAccounts are those whose e-mail addresses pods may name as their role; a *
	// at the end stands for anything. None means that pods may name none.
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`
	// TokenURL and ImpersonationURL replace Google's addresses, for private endpoints.
	TokenURL         string `json:"tokenURL,omitempty"`
	ImpersonationURL string `json:"impersonationURL,omitempty"`
	Trust
}

const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token"

	googleSTS   = "https://sts.googleapis.com/v1/token"
	googleIAM   = "https://iamcredentials.googleapis.com"
	googleScope = "https://www.googleapis.com/auth/cloud-platform"
)

// exchange is a Source that exchanges the pod's token for another one.
type exchange struct {
	kind     string
	service  *service
	tokenURL string
	audience string
	form     url.Values // what is the same in each request

	// Of kind gcp alone.
	iam      *service
	iamURL   string
	accounts []string
	scopes   []string
}

func newOIDC(name string, cfg OIDCConfig) (Source, error) {
	address, ca, err := cfg.Trust.resolve(cfg.TokenURL)
	if err != nil {
		return nil, err
	}
	if cfg.Audience == "" {
		return nil, errors.New("audience is missing: name the one that only this service takes, and never that of the API server")
	}
	form := url.Values{}
	for key, value := range map[string]string{
		"audience": cfg.RequestAudience, "resource": cfg.Resource, "scope": strings.Join(cfg.Scopes, " "), "requested_token_type": cfg.RequestedTokenType,
	} {
		if value != "" {
			form.Set(key, value)
		}
	}
	return &exchange{kind: "oidc", service: newService(name, address, ca), tokenURL: address.String(), audience: cfg.Audience, form: form}, nil
}

func newGCP(name string, cfg GCPConfig) (Source, error) {
	if !strings.HasPrefix(cfg.Provider, "projects/") || !strings.Contains(cfg.Provider, "/providers/") {
		return nil, fmt.Errorf("provider %q: want projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/NAME", cfg.Provider)
	}
	address, ca, err := cfg.Trust.resolve(firstOf(cfg.TokenURL, googleSTS))
	if err != nil {
		return nil, err
	}
	iam, _, err := cfg.Trust.resolve(firstOf(cfg.ImpersonationURL, googleIAM))
	if err != nil {
		return nil, err
	}
	scopes := cfg.Scopes
	if len(scopes) == 0 {
		scopes = []string{googleScope}
	}
	return &exchange{
		kind: "gcp", service: newService(name, address, ca), tokenURL: address.String(),
		audience: firstOf(cfg.Audience, "https://iam.googleapis.com/"+cfg.Provider),
		form: url.Values{
			"audience": {"//iam.googleapis.com/" + cfg.Provider}, "scope": {strings.Join(scopes, " ")}, "requested_token_type": {typeAccessToken},
		},
		iam: newService(name, iam, ca), iamURL: strings.TrimRight(iam.String(), "/"), accounts: cfg.ServiceAccounts, scopes: scopes,
	}, nil
}

func (e *exchange) Kind() string     { return e.kind }
func (e *exchange) Audience() string { return e.audience }

// Away implements Source.
func (e *exchange) Away() (time.Time, bool) {
	if since, away := e.service.circuit.away(); away || e.iam == nil {
		return since, away
	}
	return e.iam.circuit.away()
}

// Validate implements Source.
func (e *exchange) Validate(role string, reads []Read) error {
	if role != "" && !matches(e.accounts, role) {
		return fmt.Errorf("%w: source %s: role %q is none of the service accounts that the administrator allows", volume.ErrInvalid, e.service.source, role)
	}
	return checkBare(e.service.source, reads)
}

// checkBare is nil for reads of a source that gives one thing: they say nothing.
func checkBare(source string, reads []Read) error {
	for _, r := range reads {
		if r.Engine != "" || r.Mount != "" || r.Path != "" || r.Role != "" || r.Version != 0 || len(r.With) > 0 {
			return fmt.Errorf("%w: source %s gives one credential: write {} for what to read", volume.ErrInvalid, source)
		}
	}
	return nil
}

// Open implements Source.
func (e *exchange) Open(role string) Session { return &exchangeSession{exchange: e, account: role} }

// exchangeSession is a Session that keeps nothing.
type exchangeSession struct {
	exchange *exchange
	account  string
}

// Renew implements Session: what was exchanged is exchanged anew.
func (s *exchangeSession) Renew(_ context.Context, c Credential) (Credential, bool) { return c, false }

// Check implements Session: nobody can be asked.
func (s *exchangeSession) Check(context.Context, podtoken.Token, []Read) error { return nil }

// Close implements Session.
func (s *exchangeSession) Close(context.Context) error { return nil }

// Read implements Session.
func (s *exchangeSession) Read(ctx context.Context, token podtoken.Token, _ Read) (Credential, error) {
	e := s.exchange
	form := url.Values{"grant_type": {grantExchange}, "subject_token_type": {typeJWT}, "subject_token": {token.Text.Reveal()}}
	for key, values := range e.form {
		form[key] = values
	}
	begin := time.Now()
	var answer map[string]any
	err := e.service.post(ctx, "exchange the pod's token", e.tokenURL, "application/x-www-form-urlencoded", form.Encode(), "", token.Text, oauthError, &answer)
	if err != nil {
		return Credential{}, err
	}
	fields := fieldsOf(answer)
	if fields["access_token"].IsEmpty() {
		return Credential{}, e.service.nonsense("exchange the pod's token", "its answer has no access_token")
	}
	c := Credential{Fields: fields, Issued: begin}
	if text := fields["expires_in"].Reveal(); text != "" {
		seconds, err := json.Number(text).Int64()
		if err != nil || seconds <= 0 || seconds > int64(maxLife/time.Second) {
			return Credential{}, e.service.nonsense("exchange the pod's token", "expires_in in its answer is no number of seconds")
		}
		c.Expires = begin.Add(time.Duration(seconds) * time.Second)
	}
	if s.account != "" {
		return s.impersonate(ctx, c)
	}
	return c, nil
}

// impersonate turns a federated token into one of a service account (Google Cloud,
// iamcredentials generateAccessToken).
func (s *exchangeSession) impersonate(ctx context.Context, c Credential) (Credential, error) {
	e := s.exchange
	doing := "get a token of service account " + s.account
	target := e.iamURL + "/v1/projects/-/serviceAccounts/" + url.PathEscape(s.account) + ":generateAccessToken"
	body, err := json.Marshal(map[string]any{"scope": e.scopes})
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", doing, err)
	}
	var answer struct {
		AccessToken string    `json:"accessToken"`
		ExpireTime  time.Time `json:"expireTime"`
	}
	bearer := c.Fields["access_token"]
	begin := time.Now()
	if err := e.iam.post(ctx, doing, target, "application/json", string(body), bearer.Reveal(), bearer, googleError, &answer); err != nil {
		return Credential{}, err
	}
	if answer.AccessToken == "" || answer.ExpireTime.Before(begin) || answer.ExpireTime.Sub(begin) > maxLife {
		return Credential{}, e.iam.nonsense(doing, "its answer has no token that is valid now")
	}
	return Credential{
		Fields: map[string]secret.Text{"access_token": secret.New(answer.AccessToken), "token_type": secret.New("Bearer")},
		Issued: begin, Expires: answer.ExpireTime,
	}, nil
}

// nonsense is the error for an answer that makes no sense.
func (s *service) nonsense(doing, what string) error {
	return fmt.Errorf("source %s: %s: %w: %s", s.source, doing, volume.ErrUnavailable, what)
}

// post sends a body and decodes the JSON of the answer. explain finds in the body of a
// refusal what the service calls its error.
func (s *service) post(ctx context.Context, doing, target, contentType, body, bearer string, hide secret.Text, explain func([]byte) explained, answer any) error {
	return s.ask(ctx, doing, func(ctx context.Context) error {
		text, err := s.send(ctx, target, contentType, body, bearer, hide, explain)
		if err != nil {
			return err
		}
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if decoder.Decode(answer) != nil {
			return fmt.Errorf("%w: its answer is no JSON of the kind that was asked for", volume.ErrUnavailable)
		}
		return nil
	})
}

// send is one POST and the whole body of its answer.
func (s *service) send(ctx context.Context, target, contentType, body, bearer string, hide secret.Text, explain func([]byte) explained) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json, text/xml")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: %s", volume.ErrUnavailable, said(plain(err).Error(), hide.Reveal()))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("%w: read its answer: %w", volume.ErrUnavailable, err)
	}
	if resp.StatusCode/100 != 2 {
		e := explain(text)
		switch what := said(e.text, hide.Reveal()); {
		case e.text == "":
			return "", stranger(resp.StatusCode)
		case e.passing:
			return "", fmt.Errorf("%w: it answers %d %s: %s", volume.ErrUnavailable, resp.StatusCode, http.StatusText(resp.StatusCode), what)
		default:
			return "", refusal(resp.StatusCode, what)
		}
	}
	return string(text), nil
}

// explained is what a service calls its error; "" if it says nothing that it would.
type explained struct {
	text string
	// passing says that the service itself, or what it asks, is in trouble.
	passing bool
}

func explain(code, message string, passing ...string) explained {
	if code == "" {
		return explained{}
	}
	return explained{strings.TrimSpace(code + " " + message), slices.Contains(passing, code)}
}

// oauthError is the error of a token service (RFC 6749, sections 4.1.2.1 and 5.2).
func oauthError(body []byte) explained {
	var e struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &e) != nil {
		return explained{}
	}
	return explain(e.Error, e.Description, "temporarily_unavailable", "server_error")
}

// googleError is the error of a Google API (google/rpc/code.proto).
func googleError(body []byte) explained {
	var e struct {
		Error struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil {
		return explained{}
	}
	return explain(e.Error.Status, e.Error.Message, "UNAVAILABLE", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED")
}
