package credential

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
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
	// Seconds is how long a token lives if the service does not say: 30 to 86400. 0
	// means that nobody knows.
	Seconds int `json:"seconds,omitempty"`
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

	// googleLife is asked for, and what Google gives unless an organization allows more.
	googleLife = time.Hour
)

// exchange is a Source that exchanges the pod's token for another one.
type exchange struct {
	kind     string
	service  *service
	tokenURL string
	audience string
	form     url.Values // what is the same in each request

	// unsaid is how long a token lives of which the service does not say that; 0 if the
	// administrator does not know either.
	unsaid time.Duration

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
	if cfg.Seconds != 0 && (cfg.Seconds < 30 || cfg.Seconds > 86400) {
		return nil, fmt.Errorf("seconds: %d: want 30 to 86400, or leave it out", cfg.Seconds)
	}
	form := url.Values{}
	for key, value := range map[string]string{
		"audience": cfg.RequestAudience, "resource": cfg.Resource, "scope": strings.Join(cfg.Scopes, " "), "requested_token_type": cfg.RequestedTokenType,
	} {
		if value != "" {
			form.Set(key, value)
		}
	}
	return &exchange{
		kind: "oidc", service: newService(name, address, ca), tokenURL: address.String(), audience: cfg.Audience, form: form,
		unsaid: time.Duration(cfg.Seconds) * time.Second,
	}, nil
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
	const doing = "exchange the pod's token"
	begin := time.Now()
	var answer map[string]any
	err := e.service.post(ctx, post{
		tenant: token.Claims.Namespace, doing: doing, target: e.tokenURL, contentType: formType, body: form.Encode(), hide: token.Text, explain: oauthError, bad: volume.ErrDenied,
	}, &answer)
	if err != nil {
		return Credential{}, asLogin(err)
	}
	fields := fieldsOf(answer)
	if fields["access_token"].IsEmpty() {
		return Credential{}, e.service.nonsense(doing, "its answer has no access_token")
	}
	c := Credential{Fields: fields, Issued: begin}
	if c.Expires, err = e.endOfAnswer(fields, begin); err != nil {
		return Credential{}, e.service.nonsense(doing, err.Error())
	}
	if c.Expires.IsZero() {
		c.Again = unsaidAgain
	}
	if s.account != "" {
		return s.impersonate(ctx, token.Claims.Namespace, c)
	}
	return c, nil
}

// impersonate turns a federated token into one of a service account (Google Cloud,
// iamcredentials generateAccessToken).
func (s *exchangeSession) impersonate(ctx context.Context, tenant string, c Credential) (Credential, error) {
	e := s.exchange
	doing := "get a token of service account " + s.account
	target := e.iamURL + "/v1/projects/-/serviceAccounts/" + url.PathEscape(s.account) + ":generateAccessToken"
	body, err := json.Marshal(map[string]any{"scope": e.scopes, "lifetime": fmt.Sprintf("%ds", int(googleLife/time.Second))})
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", doing, err)
	}
	var answer struct {
		AccessToken string    `json:"accessToken"`
		ExpireTime  time.Time `json:"expireTime"`
	}
	bearer := c.Fields["access_token"]
	begin := time.Now()
	if err := e.iam.post(ctx, post{
		tenant: tenant, doing: doing, target: target, contentType: "application/json", body: string(body), bearer: bearer, explain: googleError, bad: volume.ErrInvalid,
	}, &answer); err != nil {
		return Credential{}, err
	}
	if answer.AccessToken == "" || answer.ExpireTime.Before(begin) || answer.ExpireTime.Sub(begin) > maxLife {
		return Credential{}, e.iam.nonsense(doing, "its answer has no token that is valid now, by the clock of this node")
	}
	return Credential{
		Fields: map[string]secret.Text{"access_token": secret.New(answer.AccessToken), "token_type": secret.New("Bearer")},
		Issued: begin, Expires: notAfter(answer.ExpireTime, begin, googleLife),
	}, nil
}
