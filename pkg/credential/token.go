package credential

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TokenConfig is a source of kind token: the pod's token itself.
type TokenConfig struct {
	// Audience is that of the token.
	Audience string `json:"audience"`
}

// tokenSource is a Source and its own Session: it asks nobody.
type tokenSource struct{ name, audience string }

func newToken(name string, cfg TokenConfig) (Source, error) {
	if cfg.Audience == "" {
		return nil, errors.New("audience is missing: a token for the API server is given to nobody here; projected volumes of Kubernetes have it")
	}
	return &tokenSource{name, cfg.Audience}, nil
}

func (t *tokenSource) Kind() string            { return "token" }
func (t *tokenSource) Audience() string        { return t.audience }
func (t *tokenSource) Away() (time.Time, bool) { return time.Time{}, false }
func (t *tokenSource) Open(string) Session     { return t }

// Validate implements Source.
func (t *tokenSource) Validate(role string, reads []Read) error {
	if role != "" {
		return fmt.Errorf("%w: source %s has no roles", volume.ErrInvalid, t.name)
	}
	return checkBare(t.name, reads)
}

// Read implements Session. The credential is the field token. It is static: kubelet
// passes the same token until it has a new one.
func (t *tokenSource) Read(_ context.Context, token podtoken.Token, _ Read) (Credential, error) {
	return Credential{
		Fields: map[string]secret.Text{"token": token.Text}, Issued: time.Now(), Expires: token.Claims.Expires, Static: true,
	}, nil
}

// Renew implements Session.
func (t *tokenSource) Renew(_ context.Context, c Credential) (Credential, bool) { return c, false }

// Check implements Session.
func (t *tokenSource) Check(context.Context, podtoken.Token, []Read) error { return nil }

// Close implements Session.
func (t *tokenSource) Close(context.Context) error { return nil }
