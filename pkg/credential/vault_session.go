package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	// minLogin is what a login must still live to be used for something.
	minLogin = 15 * time.Second
	// maxLife is the longest life that is believed of anything.
	maxLife = 10 * 365 * 24 * time.Hour
	// maxLogins bounds the logins that a session has to end at its close.
	maxLogins = 8
	// loginPause is how long no new login is made after one that was refused what the
	// one before was refused: else they pile up in Vault. It is less than the time after
	// which a refusal counts, so that another one is tried before.
	loginPause = 15 * time.Second
	// mutePause is how long the pod is not asked for again what it may do, after it might
	// not ask.
	mutePause = 5 * time.Minute
)

// vaultSession is a Session: a login, and those before it that leases hang on.
type vaultSession struct {
	vault *vault
	role  string
	// tenant is the namespace of the pod, which its token says at the first read.
	tenant  string
	current *login
	older   []*login
	now     func() time.Time
	// A new login does not help before again; before muted the pod may not ask what it
	// may do.
	again, muted time.Time
}

// login is a token of Vault's. The leases that were got with it end with it.
type login struct {
	client    *api.Client
	token     secret.Text
	life      time.Duration // when it was made
	expires   time.Time     // zero: never
	renewable bool
	leased    time.Time // until when it has a lease; zero if it never had one
}

// lease says that something hangs on the login until a time.
func (l *login) lease(until time.Time) {
	if until.After(l.leased) {
		l.leased = until
	}
}

func (l *login) isLeased(now time.Time) bool { return l.leased.After(now) }

func (l *login) alive(now time.Time) bool {
	return l.expires.IsZero() || l.expires.Sub(now) > minLogin
}

// Read implements Session.
func (s *vaultSession) Read(ctx context.Context, token podtoken.Token, read Read) (Credential, error) {
	s.tenant = token.Claims.Namespace
	p, err := s.vault.place(read)
	if err != nil {
		return Credential{}, s.vault.invalid(err)
	}
	fresh := false
	if s.current == nil || !s.current.alive(s.now()) || !s.longEnough(ctx, p) {
		if err := s.logIn(ctx, token); err != nil {
			return Credential{}, err
		}
		fresh = true
	}
	c, err := s.read(ctx, s.current, p, read)
	if err == nil || fresh || !errors.Is(err, volume.ErrDenied) || s.now().Before(s.again) {
		return c, err
	}
	// The login may have been revoked, or its policies may be of another day.
	before := s.current
	if err := s.logIn(ctx, token); err != nil {
		return Credential{}, err
	}
	c, err = s.read(ctx, s.current, p, read)
	if errors.Is(err, volume.ErrDenied) {
		s.useless(ctx, before)
	}
	return c, err
}

// useless ends the last login, which helped nothing, if there is one before it on which
// a lease hangs: that one is used again.
func (s *vaultSession) useless(ctx context.Context, before *login) {
	s.again = s.now().Add(loginPause)
	i := slices.Index(s.older, before)
	if i < 0 || !before.alive(s.now()) {
		return
	}
	s.older = slices.Delete(s.older, i, i+1)
	last := s.current
	s.current = before
	// Whatever is not ended ends by itself.
	_ = s.revoke(ctx, last)
}

// longEnough says whether the login may be used for what hangs on it: a lease that
// would soon end with it is no good. A login that can is renewed for that.
func (s *vaultSession) longEnough(ctx context.Context, p place) bool {
	l := s.current
	if p.engine == EngineKV || p.engine == EnginePKI || l.expires.IsZero() {
		return true
	}
	enough := min(5*time.Minute, l.life/2)
	if l.renewable && l.expires.Sub(s.now()) <= enough {
		s.renewLogin(ctx, l, l.life)
	}
	return l.expires.Sub(s.now()) > enough
}

func (s *vaultSession) logIn(ctx context.Context, token podtoken.Token) error {
	client, err := s.vault.client("")
	if err != nil {
		return err
	}
	jwt := token.Text.Reveal()
	doing := fmt.Sprintf("log in at %s as role %s", s.vault.loginPath(), s.role)
	answer, err := s.call(ctx, doing, jwt, func(ctx context.Context) (*api.Secret, error) {
		return client.Logical().WriteWithContext(ctx, s.vault.loginPath(), map[string]any{"role": s.role, "jwt": jwt})
	})
	if err != nil {
		return asLogin(err)
	}
	bad := func(what string) error {
		return fmt.Errorf("source %s: %s: %w: %s", s.vault.service.source, doing, volume.ErrUnavailable, what)
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return bad("its answer has no token")
	}
	life, err := lifeOf(answer.Auth.LeaseDuration)
	if err != nil {
		return bad(err.Error())
	}
	client.SetToken(answer.Auth.ClientToken)
	l := &login{client: client, token: secret.New(answer.Auth.ClientToken), life: life, renewable: answer.Auth.Renewable}
	if life > 0 {
		l.expires = s.now().Add(life)
	}
	if s.current != nil {
		s.older = append(s.older, s.current)
	}
	s.current = l
	s.forget(ctx)
	return nil
}

// loginError is an error that is ErrLogin too, and does not say so.
type loginError struct{ error }

func (e loginError) Unwrap() []error { return []error{e.error, ErrLogin} }

// asLogin marks a refusal that came where the pod's token was shown.
func asLogin(err error) error {
	if errors.Is(err, volume.ErrDenied) || errors.Is(err, volume.ErrPrecondition) {
		return loginError{err}
	}
	return err
}

// forget ends the older logins on which no lease hangs any more, so that they do not
// pile up in Vault; and if there are still many, the one whose leases end first. What
// hangs on a login ends with it, and a pod may be using that.
func (s *vaultSession) forget(ctx context.Context) {
	now := s.now()
	slices.SortStableFunc(s.older, func(a, b *login) int { return a.leased.Compare(b.leased) })
	for len(s.older) > 0 && (len(s.older) > maxLogins || !s.older[0].isLeased(now)) {
		l := s.older[0]
		s.older = s.older[1:]
		if l.alive(now) {
			_ = s.revoke(ctx, l) // else it ends by itself
		}
	}
}

// lifeOf is a number of seconds that Vault gives something to live.
func lifeOf(seconds int) (time.Duration, error) {
	if seconds < 0 || seconds > int(maxLife/time.Second) {
		return 0, fmt.Errorf("it gives %d seconds to live", seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

// until is when a lease ends: with its login, if that is earlier.
func (l lease) until(end time.Time) time.Time {
	if e := l.login.expires; !e.IsZero() && e.Before(end) {
		return e
	}
	return end
}

// Renew implements Session.
func (s *vaultSession) Renew(ctx context.Context, c Credential) (Credential, bool) {
	if c.lease.id == "" || !c.lease.renewable {
		return c, false
	}
	now, l := s.now(), c.lease.login
	wanted := now.Add(c.lease.life)
	if !l.expires.IsZero() && l.expires.Before(wanted) && l.renewable {
		s.renewLogin(ctx, l, c.lease.life)
	}
	if !l.alive(now) {
		return c, false
	}
	answer, err := s.call(ctx, "renew a lease", l.token.Reveal(), func(ctx context.Context) (*api.Secret, error) {
		return l.client.Sys().RenewWithContext(ctx, c.lease.id, int(c.lease.life/time.Second))
	})
	if err != nil || answer == nil {
		return c, false
	}
	life, err := lifeOf(answer.LeaseDuration)
	if err != nil || answer.LeaseID != "" && answer.LeaseID != c.lease.id {
		return c, false
	}
	c.Expires, c.lease.renewable = c.lease.until(now.Add(life)), answer.Renewable
	l.lease(c.Expires)
	// Near its maximum a lease gets ever shorter: better a new one in time.
	return c, c.Expires.Sub(now) > c.lease.life/2
}

func (s *vaultSession) renewLogin(ctx context.Context, l *login, life time.Duration) {
	now := s.now()
	answer, err := s.call(ctx, "renew the login", l.token.Reveal(), func(ctx context.Context) (*api.Secret, error) {
		return l.client.Auth().Token().RenewSelfWithContext(ctx, int(life/time.Second))
	})
	if err != nil || answer == nil || answer.Auth == nil {
		return // it lives as long as it did
	}
	if d, err := lifeOf(answer.Auth.LeaseDuration); err == nil && d > 0 {
		l.expires = now.Add(d)
	}
}

// Close implements Session. A login takes its leases along.
func (s *vaultSession) Close(ctx context.Context) error {
	all := s.older
	if s.current != nil {
		all = append(all, s.current)
	}
	s.older, s.current = nil, nil
	var errs []error
	now := s.now()
	for _, l := range all {
		if !l.expires.IsZero() && l.expires.Before(now) {
			continue
		}
		errs = append(errs, s.revoke(ctx, l))
	}
	return errors.Join(errs...)
}

func (s *vaultSession) revoke(ctx context.Context, l *login) error {
	_, err := s.call(ctx, "revoke a login", l.token.Reveal(), func(ctx context.Context) (*api.Secret, error) {
		return nil, l.client.Auth().Token().RevokeSelfWithContext(ctx, "")
	})
	// One that Vault does not know any more is ended.
	if errors.Is(err, volume.ErrDenied) {
		return nil
	}
	return err
}
