package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
)

// vaultSession is a Session: a login, and those before it that leases still hang on.
type vaultSession struct {
	vault   *vault
	role    string
	current *login
	older   []*login
	// mute says that the pod may not ask what it may do.
	mute bool
}

// login is a token of Vault's. The leases that were got with it end with it.
type login struct {
	client    *api.Client
	token     secret.Text
	expires   time.Time // zero: never
	renewable bool
}

func (l *login) alive(now time.Time) bool {
	return l.expires.IsZero() || l.expires.Sub(now) > minLogin
}

// Read implements Session.
func (s *vaultSession) Read(ctx context.Context, token podtoken.Token, read Read) (Credential, error) {
	p, err := s.vault.place(read)
	if err != nil {
		return Credential{}, s.vault.invalid(err)
	}
	fresh := false
	if s.current == nil || !s.current.alive(time.Now()) || !s.longEnough(p) {
		if err := s.logIn(ctx, token); err != nil {
			return Credential{}, err
		}
		fresh = true
	}
	c, err := s.read(ctx, s.current, p, read)
	if err == nil || fresh || !errors.Is(err, volume.ErrDenied) {
		return c, err
	}
	// The login may have been revoked, or its policies may be of another day.
	if err := s.logIn(ctx, token); err != nil {
		return Credential{}, err
	}
	return s.read(ctx, s.current, p, read)
}

// longEnough says whether the login may be used for what hangs on it: a lease that
// would soon end with it is no good.
func (s *vaultSession) longEnough(p place) bool {
	static := p.engine == EngineKV || p.engine == EnginePKI
	return static || s.current.expires.IsZero() || s.current.renewable || time.Until(s.current.expires) > 5*time.Minute
}

func (s *vaultSession) logIn(ctx context.Context, token podtoken.Token) error {
	client, err := s.vault.client("")
	if err != nil {
		return err
	}
	jwt := token.Text.Reveal()
	doing := fmt.Sprintf("log in at %s as role %s", s.vault.loginPath(), s.role)
	answer, err := s.vault.call(ctx, doing, []string{jwt}, func(ctx context.Context) (*api.Secret, error) {
		return client.Logical().WriteWithContext(ctx, s.vault.loginPath(), map[string]any{"role": s.role, "jwt": jwt})
	})
	if err != nil {
		return err
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
	l := &login{client: client, token: secret.New(answer.Auth.ClientToken), renewable: answer.Auth.Renewable}
	if life > 0 {
		l.expires = time.Now().Add(life)
	}
	if s.current != nil {
		s.older = append(s.older, s.current)
	}
	s.current = l
	s.forget()
	return nil
}

// forget drops logins that have ended by themselves, and the oldest if there are many.
func (s *vaultSession) forget() {
	now := time.Now()
	var left []*login
	for _, l := range s.older {
		if l.expires.IsZero() || l.expires.After(now) {
			left = append(left, l)
		}
	}
	s.older = left[max(0, len(left)-maxLogins):]
}

// lifeOf is a number of seconds that Vault gives something to live.
func lifeOf(seconds int) (time.Duration, error) {
	if seconds < 0 || seconds > int(maxLife/time.Second) {
		return 0, fmt.Errorf("it gives %d seconds to live", seconds)
	}
	return time.Duration(seconds) * time.Second, nil
}

func (s *vaultSession) read(ctx context.Context, l *login, p place, read Read) (Credential, error) {
	doing := "read " + p.path
	begin := time.Now()
	answer, err := s.vault.call(ctx, doing, []string{l.token.Reveal()}, func(ctx context.Context) (*api.Secret, error) {
		if !p.write {
			return readLogical(ctx, l.client, p.path)
		}
		data := map[string]any{}
		for k, v := range read.With {
			data[k] = v
		}
		return l.client.Logical().WriteWithContext(ctx, p.path, data)
	})
	if err != nil {
		return Credential{}, err
	}
	fail := func(sentinel error, what string) (Credential, error) {
		return Credential{}, fmt.Errorf("source %s: %s: %w: %s", s.vault.service.source, doing, sentinel, what)
	}
	if answer == nil || answer.Data == nil {
		return fail(volume.ErrPrecondition, "there is nothing at that path")
	}
	data := answer.Data
	if p.nested {
		inner, ok := data["data"].(map[string]any)
		if !ok {
			// A version that was deleted answers with metadata alone.
			return fail(volume.ErrPrecondition, "there is nothing at that path, or its engine is not version 2 of kv (then set version: 1)")
		}
		data = inner
	}
	c := Credential{Fields: fieldsOf(data), Issued: begin, Static: !p.write && answer.LeaseID == ""}
	life, err := lifeOf(answer.LeaseDuration)
	if err != nil {
		return fail(volume.ErrUnavailable, err.Error())
	}
	if p.engine == EnginePKI {
		if c.Expires, err = completeCertificate(c.Fields); err != nil {
			return fail(volume.ErrUnavailable, err.Error())
		}
	}
	switch {
	case answer.LeaseID != "":
		c.lease = lease{id: answer.LeaseID, renewable: answer.Renewable, life: life, login: l}
		end := c.lease.until(begin.Add(life))
		if c.Expires.IsZero() || end.Before(c.Expires) {
			c.Expires = end
		}
	case p.write && p.engine == "" && life > 0:
		c.Expires = begin.Add(life)
	}
	return c, nil
}

// readLogical reads a path. It is nil if there is nothing, which is not the same as an
// answer that has nothing in it.
func readLogical(ctx context.Context, client *api.Client, path string) (*api.Secret, error) {
	raw, err := client.Logical().ReadRawWithContext(ctx, path)
	status := 0
	if raw != nil {
		status = raw.StatusCode
	}
	answer, err := client.Logical().ParseRawResponseAndCloseBody(raw, err)
	if err == nil && answer == nil && status == http.StatusOK {
		return nil, errors.New("an empty answer")
	}
	return answer, err
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
	now, l := time.Now(), c.lease.login
	wanted := now.Add(c.lease.life)
	if !l.expires.IsZero() && l.expires.Before(wanted) && l.renewable {
		s.renewLogin(ctx, l, c.lease.life)
	}
	if !l.alive(now) {
		return c, false
	}
	answer, err := s.vault.call(ctx, "renew a lease", []string{l.token.Reveal()}, func(ctx context.Context) (*api.Secret, error) {
		return l.client.Sys().RenewWithContext(ctx, c.lease.id, int(c.lease.life/time.Second))
	})
	if err != nil || answer == nil {
		return c, false
	}
	life, err := lifeOf(answer.LeaseDuration)
	if err != nil {
		return c, false
	}
	c.Expires = c.lease.until(now.Add(life))
	// Near its maximum a lease gets ever shorter: better a new one in time.
	return c, c.Expires.Sub(now) > c.lease.life/2
}

func (s *vaultSession) renewLogin(ctx context.Context, l *login, life time.Duration) {
	now := time.Now()
	answer, err := s.vault.call(ctx, "renew the login", []string{l.token.Reveal()}, func(ctx context.Context) (*api.Secret, error) {
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
	now := time.Now()
	for _, l := range all {
		if !l.expires.IsZero() && l.expires.Before(now) {
			continue
		}
		_, err := s.vault.call(ctx, "revoke a login", []string{l.token.Reveal()}, func(ctx context.Context) (*api.Secret, error) {
			return nil, l.client.Auth().Token().RevokeSelfWithContext(ctx, "")
		})
		// One that Vault does not know any more is ended.
		if err != nil && !errors.Is(err, volume.ErrDenied) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
