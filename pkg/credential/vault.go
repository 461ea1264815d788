package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// VaultConfig is a source of kind vault, as the administrator writes it.
type VaultConfig struct {
	// Address is the server's URL, such as https://vault.vault.svc:8200.
	Address string `json:"address"`
	Trust
	// Audience is that of the tokens which the auth method takes.
	Audience string `json:"audience"`
	// Namespace is one of Vault Enterprise's; "" for none.
	Namespace string `json:"namespace,omitempty"`
	// Auth says how a token becomes a login.
	Auth VaultAuth `json:"auth"`
	// Paths are what pods may ask for, whatever Vault would allow: paths of Vault's
	// API, such as secret/data/shop/*, in which a * at the end stands for anything.
	// None means everything but sys/, auth/, identity/ and cubbyhole/, which are never
	// read.
	Paths []string `json:"paths,omitempty"`
}

// VaultAuth is an auth method.
type VaultAuth struct {
	// Method is kubernetes or jwt.
	Method string `json:"method"`
	// Mount is where it is mounted; "" means at the name of the method.
	Mount string `json:"mount,omitempty"`
	// Role is that of pods which name none.
	Role string `json:"role,omitempty"`
	// Roles are those which pods may name; a * at the end stands for anything. None
	// means any: which service accounts may have which role is in Vault.
	Roles []string `json:"roles,omitempty"`
}

// The engines that a Read may name.
const (
	EngineKV       = "kv"
	EnginePKI      = "pki"
	EngineDatabase = "database"
)

// Engines are all engines.
func Engines() []string { return []string{EngineKV, EnginePKI, EngineDatabase} }

// vault is a Source.
type vault struct {
	cfg     VaultConfig
	service *service
	base    *api.Config
}

func newVault(name string, cfg VaultConfig) (Source, error) {
	address, ca, err := cfg.Trust.resolve(cfg.Address)
	if err != nil {
		return nil, err
	}
	switch cfg.Auth.Method {
	case "kubernetes", "jwt":
	default:
		return nil, fmt.Errorf("auth.method %q: want kubernetes or jwt", cfg.Auth.Method)
	}
	if cfg.Audience == "" {
		return nil, errors.New("audience is missing: name the one that only this Vault takes, and never that of the API server")
	}
	if cfg.Auth.Mount == "" {
		cfg.Auth.Mount = cfg.Auth.Method
	}
	if err := checkPath(cfg.Auth.Mount); err != nil {
		return nil, fmt.Errorf("auth.mount: %w", err)
	}
	v := &vault{cfg: cfg, service: newService(name, address, ca)}
	v.base = api.DefaultConfig()
	if v.base == nil || v.base.Error != nil {
		return nil, errors.New("the environment has variables of Vault's client (VAULT_...) that it cannot read: take them away, the driver uses none")
	}
	v.base.Address, v.base.AgentAddress = address.String(), ""
	v.base.HttpClient = v.service.client
	v.base.MaxRetries = 0 // the caller has a pace of its own
	v.base.Timeout = requestTime
	v.base.DisableRedirects = true
	v.base.SRVLookup = false
	v.base.Limiter = nil
	if _, err := v.client(""); err != nil {
		return nil, err
	}
	return v, nil
}

// client is one for a Vault token, "" for none. It is made anew for each login and
// shares nothing with others but connections.
func (v *vault) client(token string) (*api.Client, error) {
	c, err := api.NewClient(v.base)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", v.cfg.Address, err)
	}
	// What the environment may have put there is not the administrator's word.
	c.SetToken(token)
	c.ClearNamespace()
	if v.cfg.Namespace != "" {
		c.SetNamespace(v.cfg.Namespace)
	}
	c.SetWrappingLookupFunc(func(string, string) string { return "" })
	return c, nil
}

func (v *vault) Kind() string             { return "vault" }
func (v *vault) Audience() string         { return v.cfg.Audience }
func (v *vault) Away() (time.Time, bool)  { return v.service.circuit.away() }
func (v *vault) role(asked string) string { return firstOf(asked, v.cfg.Auth.Role) }
func (v *vault) Open(role string) Session {
	return &vaultSession{vault: v, role: v.role(role), now: time.Now}
}
func (v *vault) loginPath() string { return "auth/" + v.cfg.Auth.Mount + "/login" }
func (v *vault) String() string    { return "vault at " + v.cfg.Address }
func (v *vault) invalid(err error) error {
	return fmt.Errorf("%w: source %s: %w", volume.ErrInvalid, v.service.source, err)
}
func (v *vault) allows(apiPath string) bool {
	return len(v.cfg.Paths) == 0 || matches(v.cfg.Paths, apiPath)
}

// Validate implements Source.
func (v *vault) Validate(role string, reads []Read) error {
	name := v.role(role)
	switch {
	case name == "":
		return v.invalid(errors.New("neither the pod nor the source names a role: set the attribute role"))
	case len(v.cfg.Auth.Roles) > 0 && name != v.cfg.Auth.Role && !matches(v.cfg.Auth.Roles, name):
		return v.invalid(fmt.Errorf("role %q is not among those that the administrator allows", name))
	}
	for _, r := range reads {
		if _, err := v.place(r); err != nil {
			return v.invalid(err)
		}
	}
	return nil
}

// place is what a Read means in Vault's API.
type place struct {
	path  string
	write bool
	// nested says that the data are in a field data of the answer.
	nested bool
	engine string
}

func (v *vault) place(r Read) (place, error) {
	p, err := placeOf(r)
	if err != nil {
		return place{}, err
	}
	if err := checkPath(p.path); err != nil {
		return place{}, err
	}
	if first, _, _ := strings.Cut(p.path, "/"); isOwn(first) {
		return place{}, fmt.Errorf("path %q: what is below %s/ is Vault's own and not read for pods", p.path, first)
	}
	if part := ownBelow(p, r.Mount); part != "" && len(v.cfg.Paths) == 0 {
		return place{}, fmt.Errorf("path %q: if it begins with a namespace, what is below %s/ is Vault's own and not read for pods: if it does not, list it in paths of the source", p.path, part)
	}
	if !v.allows(p.path) {
		return place{}, fmt.Errorf("path %q is not among those that the administrator allows", p.path)
	}
	return p, nil
}

// isOwn says whether Vault itself has what is below a path, in each namespace.
func isOwn(part string) bool {
	return part == "sys" || part == "auth" || part == "cubbyhole" || part == "identity"
}

// ownBelow is the part of a path that is Vault's own if the parts before it are
// namespaces; "" if there is none.
func ownBelow(p place, mount string) string {
	parts := strings.Split(p.path, "/")
	if p.nested {
		// What is behind the data/ after the mount is the name of a secret.
		parts = parts[:len(strings.Split(mount, "/"))]
	}
	if i := slices.IndexFunc(parts, isOwn); i >= 0 {
		return parts[i]
	}
	return ""
}

func placeOf(r Read) (place, error) {
	needs := func(fields map[string]string) error {
		for name, value := range fields {
			if value == "" {
				return fmt.Errorf("engine %s needs a %s", r.Engine, name)
			}
		}
		return nil
	}
	if r.Version != 0 && (r.Engine != EngineKV || r.Version != 1 && r.Version != 2) {
		return place{}, fmt.Errorf("version %d: want 1 or 2, and only with engine kv", r.Version)
	}
	switch r.Engine {
	case EngineKV:
		if len(r.With) > 0 || r.Role != "" {
			return place{}, errors.New("engine kv takes neither role nor with")
		}
		p := place{path: path.Join(r.Mount, r.Path), engine: r.Engine}
		if r.Version != 1 {
			p = place{path: r.Mount + "/data/" + r.Path, nested: true, engine: r.Engine}
		}
		return p, needs(map[string]string{"mount": r.Mount, "path": r.Path})
	case EnginePKI:
		if r.Path != "" {
			return place{}, errors.New("engine pki takes no path, but mount and role")
		}
		// Anything else is issued, and then cannot be read.
		if f := r.With["format"]; f != "" && f != "pem" {
			return place{}, fmt.Errorf("engine pki takes format pem alone, not %q: for another one give the whole path, without an engine", f)
		}
		return place{path: r.Mount + "/issue/" + r.Role, write: true, engine: r.Engine}, needs(map[string]string{"mount": r.Mount, "role": r.Role})
	case EngineDatabase:
		if r.Path != "" || len(r.With) > 0 {
			return place{}, errors.New("engine database takes neither path nor with, but mount and role")
		}
		return place{path: r.Mount + "/creds/" + r.Role, engine: r.Engine}, needs(map[string]string{"mount": r.Mount, "role": r.Role})
	case "":
		if r.Mount != "" || r.Role != "" {
			return place{}, errors.New("without an engine the whole path is in path: leave out mount and role")
		}
		return place{path: r.Path, write: len(r.With) > 0}, nil
	}
	return place{}, fmt.Errorf("engine %q: want one of %s, or none", r.Engine, strings.Join(Engines(), ", "))
}

// checkPath is nil for a path of Vault's API, in which nothing means something else
// to an HTTP server.
func checkPath(p string) error {
	const maxPath = 512
	if p == "" || len(p) > maxPath {
		return fmt.Errorf("a path of %d bytes: want 1 to %d", len(p), maxPath)
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("path %q: it has an empty part, or one of dots alone", p)
		}
	}
	if i := strings.IndexFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`?#%\*+`, r) }); i >= 0 {
		return fmt.Errorf("path %q: character %d is none that a path may have", p, i+1)
	}
	if u, err := url.Parse("/v1/" + p); err != nil || u.Path != "/v1/"+p {
		return fmt.Errorf("path %q: it is not what it seems as part of a URL", p)
	}
	return nil
}

// matches says whether a text is one of the patterns, or starts as one that ends in *.
func matches(patterns []string, text string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		start, open := strings.CutSuffix(p, "*")
		return p == text || open && strings.HasPrefix(text, start)
	})
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// call makes a request to Vault and turns its errors into ours. hide is the secret of
// the request, which an error might quote.
func (s *vaultSession) call(ctx context.Context, doing, hide string, request func(ctx context.Context) (*api.Secret, error)) (*api.Secret, error) {
	return s.callFor(ctx, volume.ErrDenied, doing, hide, request)
}

// callFor is call with the sentinel for what Vault calls a bad request.
func (s *vaultSession) callFor(ctx context.Context, bad error, doing, hide string, request func(ctx context.Context) (*api.Secret, error)) (*api.Secret, error) {
	said := func(text string) string { return said(text, s.vault.service.shown(doing), hide) }
	var answer *api.Secret
	err := s.vault.service.ask(ctx, s.tenant, doing, func(ctx context.Context) error {
		got, err := request(ctx)
		answer = got
		var refused *api.ResponseError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused):
			// An error of Vault's has its list of errors, be it empty.
			if refused.RawError || refused.Errors == nil {
				return stranger(refused.StatusCode)
			}
			text := strings.Join(refused.Errors, "; ")
			if refused.StatusCode == http.StatusBadRequest && upgrading(text) {
				return fmt.Errorf("%w: %s: %s", answered{volume.ErrUnavailable}, answers(refused.StatusCode), said(text))
			}
			return refusal(refused.StatusCode, said(text), bad)
		case errors.Is(err, errTooLarge):
			return fmt.Errorf("%w: %w", volume.ErrUnavailable, errTooLarge)
		case isNetwork(err):
			return unreachable(err, said)
		}
		// The decoder may quote the answer.
		return fmt.Errorf("%w: its answer is not that of a Vault server", volume.ErrUnavailable)
	})
	return answer, err
}

// upgrading says whether an error is the one with which an engine kv answers 400 while
// it becomes one of version 2, or waits for the primary to make it one
// (vault-plugin-secrets-kv, upgrade.go).
func upgrading(text string) bool {
	return strings.Contains(strings.ToLower(text), "from non-versioned to versioned data")
}

// isNetwork says whether a request failed before there was an answer to decode.
func isNetwork(err error) bool {
	var u *url.Error
	return errors.As(err, &u) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
