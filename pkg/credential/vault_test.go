package credential

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/fakevault"
)

func TestEveryEngineIsRead(t *testing.T) {
	s := newServer(t)
	s.Put("secret/data/shop/db", map[string]any{"user": "app", "port": 5432, "tls": true, "hosts": []string{"a", "b"}, "nested": map[string]any{"x": 1}, "nothing": nil})
	s.Put("old/shop/db", map[string]any{"user": "old"})
	s.Put("any/where", map[string]any{"answer": "here"})
	v := vaultAt(t, s)
	session := v.Open("")
	token := tokenFor(t, "vault")
	read := func(r Read) Credential {
		t.Helper()
		if err := v.Validate("", []Read{r}); err != nil {
			t.Fatal(err)
		}
		c, err := session.Read(t.Context(), token, r)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	kv := read(Read{Engine: EngineKV, Mount: "secret", Path: "shop/db"})
	wantFields(t, kv, map[string]string{"user": "app", "port": "5432", "tls": "true", "hosts": "a\nb", "nested": `{"x":1}`, "nothing": ""})
	wantFields(t, read(Read{Engine: EngineKV, Mount: "old", Path: "shop/db", Version: 1}), map[string]string{"user": "old"})
	wantFields(t, read(Read{Path: "any/where"}), map[string]string{"answer": "here"})
	if !kv.Static || !kv.Expires.IsZero() {
		t.Errorf("a secret of kv: static %v, expires %s", kv.Static, kv.Expires)
	}

	db := read(Read{Engine: EngineDatabase, Mount: "database", Role: "app"})
	if db.Static || db.Fields["username"].IsEmpty() || db.Life() < 59*time.Minute || db.Life() > time.Hour {
		t.Errorf("a database login: static %v, lives %s", db.Static, db.Life())
	}

	pki := read(Read{Engine: EnginePKI, Mount: "pki", Role: "web", With: map[string]string{"common_name": "web.shop.svc", "ttl": "5m"}})
	pair, err := tls.X509KeyPair([]byte(pki.Fields[FieldChain].Reveal()), []byte(pki.Fields["private_key"].Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(pair.Certificate) != 2 || pki.Static || !pki.Expires.Equal(leaf.NotAfter) || leaf.Subject.CommonName != "web.shop.svc" {
		t.Errorf("a certificate: chain of %d, static %v, expires %s and says %s", len(pair.Certificate), pki.Static, pki.Expires, leaf.NotAfter)
	}
	if n := s.Count("/login"); n != 1 {
		t.Errorf("%d logins for five reads", n)
	}
	if err := session.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if s.Logins() != 0 || len(s.Leases()) != 0 {
		t.Errorf("after the close %d logins and leases of %q live", s.Logins(), s.Leases())
	}
}

func TestALoginHasTheRoleAndTheTokenOfThePod(t *testing.T) {
	for _, method := range []string{"kubernetes", "jwt"} {
		t.Run(method, func(t *testing.T) {
			s := newServer(t)
			s.Put("secret/data/x", map[string]any{"a": "b"})
			token := tokenFor(t, "vault")
			var role, jwt, namespace, path string
			s.Verify = func(r, j string) string { role, jwt = r, j; return "" }
			s.Misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
				namespace = r.Header.Get("X-Vault-Namespace")
				if strings.HasSuffix(r.URL.Path, "/login") {
					path = r.URL.Path
				}
				return false
			})
			v := vaultAt(t, s, func(f map[string]any) {
				f["namespace"] = "team-a"
				f["auth"] = map[string]any{"method": method, "mount": "clusters/one", "roles": []string{"shop-*"}}
			})
			if err := v.Validate("shop-web", nil); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Open("shop-web").Read(t.Context(), token, Read{Engine: EngineKV, Mount: "secret", Path: "x"}); err != nil {
				t.Fatal(err)
			}
			if role != "shop-web" || jwt != token.Text.Reveal() || namespace != "team-a" || path != "/v1/auth/clusters/one/login" {
				t.Errorf("role %q, namespace %q, at %s", role, namespace, path)
			}
		})
	}
}

func TestWhatAPodMayNotAskForIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	s := newServer(t)
	v := vaultAt(t, s, func(f map[string]any) {
		f["paths"] = []string{"secret/data/shop/*", "pki/issue/web"}
		f["auth"] = map[string]any{"method": "jwt", "role": "web", "roles": []string{"shop-*"}}
	})
	kv := func(mount, path string) Read { return Read{Engine: EngineKV, Mount: mount, Path: path} }
	for _, c := range []struct {
		name, role string
		read       Read
		says       string // "" for allowed
	}{
		{"allowed", "", kv("secret", "shop/db"), ""},
		{"allowed role", "shop-x", kv("secret", "shop/db"), ""},
		{"allowed engine", "", Read{Engine: EnginePKI, Mount: "pki", Role: "web"}, ""},
		{"another role", "admin", kv("secret", "shop/db"), "not among those that the administrator allows"},
		{"another path", "", kv("secret", "bank/db"), "not among those"},
		{"the path without its end", "", kv("secret", "shop"), "not among those"},
		{"out of the path", "", kv("secret", "shop/../bank"), "empty part"},
		{"another role of the engine", "", Read{Engine: EnginePKI, Mount: "pki", Role: "web2"}, "not among those"},
		{"encoded", "", kv("secret", "shop/%2e%2e/bank"), "none that a path may have"},
		{"a query", "", kv("secret", "shop/db?version=1"), "none that a path may have"},
		{"a fragment", "", kv("secret", "shop/db#x"), "none that a path may have"},
		{"a slash too many", "", kv("secret", "shop//db"), "empty part"},
		{"a slash at the beginning", "", kv("/secret", "shop/db"), "empty part"},
		{"a new line", "", kv("secret", "shop/db\nx"), "none that a path may have"},
		{"a long path", "", kv("secret", strings.Repeat("x", 600)), "bytes"},
		{"no mount", "", kv("", "shop"), ""},
		{"system", "", Read{Path: "sys/mounts"}, "not read for pods"},
		{"system of a namespace", "", Read{Path: "ns1/sys/mounts"}, "not among those"},
		{"auth", "", Read{Path: "auth/token/create", With: map[string]string{"ttl": "1h"}}, "not read for pods"},
		{"no engine", "", Read{Engine: "ssh", Mount: "ssh"}, "want one of"},
		{"parameters for kv", "", Read{Engine: EngineKV, Mount: "a", Path: "b", With: map[string]string{"x": "y"}}, "neither role nor with"},
		{"a version too many", "", Read{Engine: EngineKV, Mount: "a", Path: "b", Version: 3}, "want 1 or 2"},
		{"a mount without an engine", "", Read{Mount: "a", Path: "b"}, "leave out mount"},
		{"a format that cannot be read", "", Read{Engine: EnginePKI, Mount: "pki", Role: "web", With: map[string]string{"common_name": "x", "format": "der"}}, "format pem alone"},
		{"the format that can be read", "", Read{Engine: EnginePKI, Mount: "pki", Role: "web", With: map[string]string{"common_name": "x", "format": "pem"}}, ""},
		{"a path for pki", "", Read{Engine: EnginePKI, Mount: "a", Path: "b"}, "takes no path"},
		{"a path for a database", "", Read{Engine: EngineDatabase, Mount: "a", Path: "b"}, "neither path"},
		{"a database without a role", "", Read{Engine: EngineDatabase, Mount: "a"}, "needs a role"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := v.Validate(c.role, []Read{c.read})
			if c.says == "" && c.name != "no mount" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantErr(t, err, volume.ErrInvalid, c.says)
		})
	}
	noRole := vaultAt(t, s, func(f map[string]any) { f["auth"] = map[string]any{"method": "jwt"} })
	wantErr(t, noRole.Validate("", nil), volume.ErrInvalid, "set the attribute role")
	open := vaultAt(t, s)
	for _, r := range []Read{{Path: "ns1/sys/mounts"}, {Path: "ns1/ns2/auth/token/create"}, {Path: "ns1/identity/oidc/token/x"}, {Path: "ns1/cubbyhole/x"},
		kv("ns1/data/sys", "x"), {Engine: EngineKV, Version: 1, Mount: "ns1", Path: "sys/mounts"}} {
		wantErr(t, open.Validate("", []Read{r}), volume.ErrInvalid, "namespace")
	}
	for _, r := range []Read{kv("secret", "auth/sys"), kv("secret", "data/identity"), kv("team/data", "sys")} {
		if err := open.Validate("", []Read{r}); err != nil {
			t.Error(err)
		}
	}
	if r := s.Requests(); len(r) > 0 {
		t.Errorf("the server was asked: %q", r)
	}
}

func TestNothingOfTheEnvironmentIsUsed(t *testing.T) {
	s := newServer(t)
	s.Put("secret/data/x", map[string]any{"a": "b"})
	t.Setenv("VAULT_TOKEN", "hvs.of-the-environment")
	t.Setenv("VAULT_NAMESPACE", "of-the-environment")
	t.Setenv("VAULT_ADDR", "https://127.0.0.1:1")
	t.Setenv("VAULT_WRAP_TTL", "5m")
	s.Misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		for name, values := range r.Header {
			if strings.Contains(strings.Join(values, " "), "of-the-environment") || name == "X-Vault-Wrap-Ttl" {
				t.Errorf("header %s comes from the environment: %q", name, values)
			}
		}
		return false
	})
	v := vaultAt(t, s)
	if _, err := v.Open("").Read(t.Context(), tokenFor(t, "vault"), Read{Engine: EngineKV, Mount: "secret", Path: "x"}); err != nil {
		t.Error(err)
	}
}

func TestAnotherServerIsNotBelieved(t *testing.T) {
	s, other := newServer(t), newServer(t)
	// httptest gives all its servers the same certificate, so only the CA differs.
	for name, change := range map[string]func(map[string]any){
		"the system's authorities": func(f map[string]any) { delete(f, "ca") },
		"another authority":        func(f map[string]any) { f["ca"] = otherCA(t) },
		"another name":             func(f map[string]any) { f["address"] = strings.Replace(other.URL, "127.0.0.1", "localhost", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			v := vaultAt(t, s, change)
			_, err := v.Open("").Read(t.Context(), tokenFor(t, "vault"), Read{Path: "a/b"})
			wantErr(t, err, volume.ErrUnavailable, "certificate")
		})
	}
	if n := len(s.Requests()) + len(other.Requests()); n > 0 {
		t.Errorf("%d requests got through", n)
	}
}

// otherCA is the certificate of an authority that vouches for nobody here.
func otherCA(t *testing.T) string {
	s := newServer(t)
	session := vaultAt(t, s).Open("")
	c, err := session.Read(t.Context(), tokenFor(t, "vault"), Read{Engine: EnginePKI, Mount: "pki", Role: "x", With: map[string]string{"common_name": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	return c.Fields["issuing_ca"].Reveal()
}

func TestALeaseIsRenewedUntilItsMaximum(t *testing.T) {
	s := newServer(t)
	s.LeaseTTL, s.LoginTTL, s.LeaseMax = 10*time.Minute, 20*time.Minute, 15*time.Minute
	v := vaultAt(t, s)
	session := v.Open("")
	c, err := session.Read(t.Context(), tokenFor(t, "vault"), Read{Engine: EngineDatabase, Mount: "database", Role: "app"})
	if err != nil {
		t.Fatal(err)
	}
	renewed, ok := session.Renew(t.Context(), c)
	if !ok || renewed.Expires.Before(c.Expires) || !renewed.Fields["password"].Equal(c.Fields["password"]) {
		t.Errorf("renewed: %v, from %s to %s", ok, c.Expires, renewed.Expires)
	}
	s.LeaseMax = 4 * time.Minute
	if _, ok := session.Renew(t.Context(), c); ok {
		t.Error("a lease that gets less than half of its life passes for renewed")
	}
	s.LeaseMax = 0
	s.Deny("sys/leases/renew", true)
	if _, ok := session.Renew(t.Context(), c); ok {
		t.Error("a lease that was not renewed passes for renewed")
	}
}

func TestALeaseEndsWithItsLogin(t *testing.T) {
	s := newServer(t)
	s.LeaseTTL, s.LoginTTL = time.Hour, 10*time.Minute
	session := vaultAt(t, s).Open("")
	c, err := session.Read(t.Context(), tokenFor(t, "vault"), Read{Engine: EngineDatabase, Mount: "database", Role: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Life() > 10*time.Minute {
		t.Errorf("the lease lives for %s, its login for 10 minutes", c.Life())
	}
	// The login lives as long as it is renewed.
	if renewed, ok := session.Renew(t.Context(), c); ok && time.Until(renewed.Expires) > 10*time.Minute {
		t.Errorf("renewed to %s", renewed.Expires)
	}
	if s.Count("renew-self") != 1 {
		t.Errorf("the login was renewed %d times", s.Count("renew-self"))
	}
}

func TestALoginThatWasRevokedIsMadeAnew(t *testing.T) {
	s := newServer(t)
	s.Put("secret/data/x", map[string]any{"a": "b"})
	session := vaultAt(t, s).Open("").(*vaultSession)
	now := time.Now()
	session.now = func() time.Time { return now }
	token := tokenFor(t, "vault")
	x := Read{Engine: EngineKV, Mount: "secret", Path: "x"}
	for range 2 {
		if _, err := session.Read(t.Context(), token, x); err != nil {
			t.Fatal(err)
		}
		s.ForgetLogins()
	}
	if n := s.Count("/login"); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
	// Refused by policy: one more login to be sure, and no more.
	s.Deny("secret/data/x", true)
	_, err := session.Read(t.Context(), token, x)
	wantErr(t, err, volume.ErrDenied, "permission denied")
	if n := s.Count("/login"); n != 3 {
		t.Errorf("%d logins, want 3", n)
	}
	// Nothing piles up while it stays refused.
	for range 60 {
		_, err = session.Read(t.Context(), token, x)
		wantErr(t, err, volume.ErrDenied, "permission denied")
		if errors.Is(err, ErrLogin) {
			t.Error("the refusal of a read passes for one of a login")
		}
		if n := s.Logins(); n != 1 {
			t.Fatalf("%d logins live, want 1", n)
		}
		now = now.Add(time.Second)
	}
	if n := s.Count("/login"); n > 8 {
		t.Errorf("%d logins in a minute of refusals", n)
	}
	now = now.Add(loginPause)
	s.Deny("login", true)
	s.ForgetLogins()
	_, err = session.Read(t.Context(), token, x)
	if !errors.Is(err, ErrLogin) {
		t.Errorf("%v is not that of a login", err)
	}
	wantErr(t, err, volume.ErrDenied, "log in at auth/kubernetes/login as role web")
}

func TestCloseGoesOnAfterAFailure(t *testing.T) {
	s := newServer(t)
	session := vaultAt(t, s).Open("")
	if _, err := session.Read(t.Context(), tokenFor(t, "vault"), Read{Engine: EngineDatabase, Mount: "database", Role: "app"}); err != nil {
		t.Fatal(err)
	}
	s.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		fakevault.Refuse(w, http.StatusServiceUnavailable, "Vault is sealed")
		return true
	})
	wantErr(t, session.Close(t.Context()), volume.ErrUnavailable, "revoke a login")
	s.Misbehave(nil)
	if err := session.Close(t.Context()); err != nil {
		t.Errorf("a second close: %v", err)
	}
}

func TestRequestsAtOnceAreBounded(t *testing.T) {
	s := newServer(t)
	v := vaultAt(t, s)
	var now, most atomic.Int64
	s.Misbehave(func(http.ResponseWriter, *http.Request) bool {
		n := now.Add(1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(20 * time.Millisecond)
		now.Add(-1)
		return false
	})
	token := tokenFor(t, "vault")
	done := make(chan error)
	const callers = 30
	for range callers {
		go func() {
			_, err := v.Open("").Read(t.Context(), token, Read{Engine: EnginePKI, Mount: "pki", Role: "x", With: map[string]string{"common_name": "x"}})
			done <- err
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if most.Load() > maxAtOnce {
		t.Errorf("%d requests at once", most.Load())
	}
}

func TestSourcesAreFoundByName(t *testing.T) {
	s := newServer(t)
	sources, err := Parse([]byte(`
sources:
  main: {vault: {address: "` + s.URL + `", audience: vault, auth: {method: jwt, role: web}}}
  self: {token: {audience: mine}}
`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"main", "self"}, sources.Names()); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(sources.Audiences(), []string{"mine", "vault"}) {
		t.Errorf("audiences %q", sources.Audiences())
	}
	_, err = sources.Find("other")
	wantErr(t, err, volume.ErrInvalid, "main, self")
}

func TestWhatAPodMayStillHaveIsAsked(t *testing.T) {
	s := newServer(t)
	session := vaultAt(t, s).Open("").(*vaultSession)
	token := tokenFor(t, "vault")
	reads := []Read{{Engine: EnginePKI, Mount: "pki", Role: "web"}, {Engine: EngineDatabase, Mount: "database", Role: "app"}}
	if err := session.Check(t.Context(), token, reads); err != nil {
		t.Error(err)
	}
	s.ForgetLogins()
	if err := session.Check(t.Context(), token, reads); err != nil {
		t.Errorf("after the login was revoked: %v", err)
	}
	s.Deny("database/creds/app", true)
	wantErr(t, session.Check(t.Context(), token, reads), volume.ErrDenied, "database/creds/app")
	s.Deny("database/creds/app", false)
	if s.Count("/issue/")+s.Count("/creds/") > 0 {
		t.Errorf("something was made: %q", s.Requests())
	}
	// Who may not ask is told by the next read, and does not ask again for a while.
	now := time.Now()
	session.now = func() time.Time { return now }
	s.Deny("sys/capabilities-self", true)
	for range 3 {
		if err := session.Check(t.Context(), token, reads); err != nil {
			t.Error(err)
		}
	}
	if n := s.Count("capabilities-self"); n != 6 {
		t.Errorf("asked %d times, want 6", n)
	}
	now = now.Add(mutePause)
	s.Deny("sys/capabilities-self", false)
	s.Deny("database/creds/app", true)
	wantErr(t, session.Check(t.Context(), token, reads), volume.ErrDenied, "database/creds/app")
	s.Misbehave(func(w http.ResponseWriter, _ *http.Request) bool {
		fakevault.Refuse(w, http.StatusServiceUnavailable, "Vault is sealed")
		return true
	})
	other := vaultAt(t, s).Open("")
	wantErr(t, other.Check(t.Context(), token, reads), volume.ErrUnavailable, "sealed")
}
