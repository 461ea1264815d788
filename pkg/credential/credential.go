package credential

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// Source is a service, or a way to use one, that the administrator has named.
//
// Errors of sources and sessions, by sentinel of pkg/volume:
//
//   - ErrInvalid: no such request can succeed here, whoever makes it: an unknown
//     engine, a role that the administrator does not allow.
//   - ErrUnauthenticated: the token cannot be used now.
//   - ErrDenied: the service knows the pod, or refuses to, and says no.
//   - ErrPrecondition: there is nothing at that place.
//   - ErrUnavailable: the service is away, overloaded, or talks nonsense.
type Source interface {
	// Kind is the kind of the source, such as "vault".
	Kind() string
	// Audience is that of the tokens which the source takes.
	Audience() string
	// Validate says whether a pod may ask for this: nil or ErrInvalid. It asks nobody.
	Validate(role string, reads []Read) error
	// Open begins a session. It asks nobody.
	Open(role string) Session
	// Away says since when the service does not answer; ok is false while it does, and
	// before it was asked.
	Away() (since time.Time, ok bool)
}

// ErrLogin marks an ErrDenied that came at a login, before anything was asked for. It
// says less than others: a service that cannot ask the API server who a pod is refuses
// everybody.
var ErrLogin = errors.New("the login is refused")

// Session is what one volume has at a source: a login perhaps, and leases. Its
// methods are called one at a time.
type Session interface {
	// Read gets a credential, a new one if it is of a kind that is made. The token is
	// one that podtoken.Token.Check has passed.
	Read(ctx context.Context, token podtoken.Token, read Read) (Credential, error)
	// Renew makes a credential live longer, which stays what it is but for Expires. ok
	// is false if it cannot, or not for long enough to be worth it: then Read again.
	Renew(ctx context.Context, c Credential) (renewed Credential, ok bool)
	// Check asks whether the pod may still have what was read before: ErrDenied if not.
	// nil means that it may, or that the service cannot say; then Read will tell.
	Check(ctx context.Context, token podtoken.Token, reads []Read) error
	// Close ends all that the session has at the service which would live on: its
	// leases and its logins. What cannot be ended expires by itself.
	Close(ctx context.Context) error
}

// Read is what a pod asks of a source. Which fields have a meaning depends on the
// source; one that has none there is ErrInvalid.
type Read struct {
	// Engine is how the place is to be understood: one of Engines, "" for any path.
	Engine string `json:"engine,omitempty"`
	// Mount is where the engine is mounted.
	Mount string `json:"mount,omitempty"`
	// Path is the place: of a secret below Mount, or, without Engine, the whole path.
	Path string `json:"path,omitempty"`
	// Role is the role of the engine, of PKI and databases.
	Role string `json:"role,omitempty"`
	// Version is that of the engine kv, 1 or 2; 0 means 2.
	Version int `json:"version,omitempty"`
	// With are parameters. A place that is asked with parameters is written to.
	With map[string]string `json:"with,omitempty"`
}

// Credential is what was got.
type Credential struct {
	// Fields by name. They are the caller's.
	Fields map[string]secret.Text
	// Issued is when it was got, by this machine's clock.
	Issued time.Time
	// Expires is when it ends to be valid, by this machine's clock; zero if nothing
	// is known of an end.
	Expires time.Time
	// Again is how long after Issued it should be read anew, if nothing is known of an
	// end; 0 leaves that to the caller.
	Again time.Duration
	// Static says that reading it again makes nothing new at the service: so that is
	// done often, to see a change.
	Static bool

	lease lease
}

// lease is what keeps a credential alive at a service.
type lease struct {
	id        string
	renewable bool
	life      time.Duration
	login     *login
}

// Life is how long the credential was valid when it was got; 0 if nothing is known of
// an end.
func (c Credential) Life() time.Duration {
	if c.Expires.IsZero() {
		return 0
	}
	return c.Expires.Sub(c.Issued)
}
