package podtoken_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/issuer"
)

func thePod() podtoken.Pod {
	return podtoken.Pod{Namespace: "shop", Name: "web-0", UID: "0b6f1c7e-5f0b-4a54-9d43-0d6a8a4a1f10", ServiceAccount: "web"}
}

// read is Read of one token for the audience vault.
func read(t testing.TB, text string) podtoken.Token {
	t.Helper()
	set, err := podtoken.Read(map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{"vault": text})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := set.For("vault")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTheTokenOfThePodIsGood(t *testing.T) {
	pod, now := thePod(), time.Now()
	text := issuer.New().Token(pod, "vault", time.Hour)
	token := read(t, text)
	if err := token.Check(pod, now); err != nil {
		t.Error(err)
	}
	if token.Text.Reveal() != text {
		t.Error("the token is not the one that was passed")
	}
	if left := token.Claims.Expires.Sub(now); left < 59*time.Minute || left > time.Hour+time.Second {
		t.Errorf("it expires in %s", left)
	}
	got, err := podtoken.PodOf(issuer.Context(pod))
	if diff := cmp.Diff(pod, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

func TestSecretsComeBeforeTheVolumeContext(t *testing.T) {
	i := issuer.New()
	first, second := i.Token(thePod(), "vault", time.Hour), i.Token(thePod(), "vault", 2*time.Hour)
	in := func(text string) map[string]string {
		return map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{"vault": text}), "other": "x"}
	}
	for name, c := range map[string]struct {
		secrets, volumeContext map[string]string
		want                   string
	}{
		"both":           {in(first), in(second), first},
		"secrets":        {in(first), nil, first},
		"volume context": {map[string]string{"other": "x"}, in(second), second},
		"neither":        {nil, map[string]string{"other": "x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := podtoken.Read(c.secrets, c.volumeContext)
			if err != nil {
				t.Fatal(err)
			}
			token, err := set.For("vault")
			if c.want == "" {
				if !errors.Is(err, volume.ErrUnauthenticated) || !strings.Contains(err.Error(), "tokenRequests") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || token.Text.Reveal() != c.want {
				t.Errorf("another token was read: %v", err)
			}
		})
	}
}

func TestATokenThatIsNotForThisPodNowIsRefused(t *testing.T) {
	i, pod, now := issuer.New(), thePod(), time.Now()
	kubernetes := func(c issuer.Claims) map[string]any { return c["kubernetes.io"].(map[string]any) }
	for _, c := range []struct {
		name   string
		change func(c issuer.Claims)
		want   error // nil: good
		says   string
	}{
		{"as it is", func(issuer.Claims) {}, nil, ""},
		{"another pod", func(c issuer.Claims) { kubernetes(c)["pod"].(map[string]any)["name"] = "web-1" }, volume.ErrUnauthenticated, `its pod is "web-1"`},
		{"the pod of that name before", func(c issuer.Claims) { kubernetes(c)["pod"].(map[string]any)["uid"] = "before" }, volume.ErrUnauthenticated, "pod UID"},
		{"another namespace", func(c issuer.Claims) { kubernetes(c)["namespace"] = "bank" }, volume.ErrUnauthenticated, "namespace"},
		{"another service account", func(c issuer.Claims) { kubernetes(c)["serviceaccount"].(map[string]any)["name"] = "admin" }, volume.ErrUnauthenticated, "service account"},
		{"another subject", func(c issuer.Claims) { c["sub"] = "system:serviceaccount:shop:admin" }, volume.ErrUnauthenticated, "subject"},
		{"bound to no pod", func(c issuer.Claims) { delete(kubernetes(c), "pod") }, volume.ErrUnauthenticated, `its pod is ""`},
		{"no claims of Kubernetes", func(c issuer.Claims) { delete(c, "kubernetes.io") }, volume.ErrUnauthenticated, "is not this pod's"},
		{"another audience", func(c issuer.Claims) { c["aud"] = []string{"api"} }, volume.ErrUnauthenticated, `is for ["api"]`},
		{"audience as one string", func(c issuer.Claims) { c["aud"] = "vault" }, nil, ""},
		{"several audiences", func(c issuer.Claims) { c["aud"] = []string{"api", "vault"} }, nil, ""},
		{"expired", func(c issuer.Claims) { c["exp"] = now.Add(-time.Second).Unix() }, volume.ErrUnauthenticated, "expired at"},
		{"expires in a moment", func(c issuer.Claims) { c["exp"] = now.Add(2 * time.Second).Unix() }, nil, ""},
		{"never expires", func(c issuer.Claims) { delete(c, "exp") }, volume.ErrUnauthenticated, "never expires"},
		{"valid in an hour", func(c issuer.Claims) { c["nbf"] = now.Add(time.Hour).Unix() }, volume.ErrUnavailable, "clocks"},
		{"issued in an hour", func(c issuer.Claims) { c["iat"] = now.Add(time.Hour).Unix() }, volume.ErrUnavailable, "clocks"},
		{"the API server's clock is 4 minutes ahead", func(c issuer.Claims) {
			c["nbf"], c["iat"] = now.Add(4*time.Minute).Unix(), now.Add(4*time.Minute).Unix()
		}, nil, ""},
		{"long audiences", func(c issuer.Claims) { c["aud"] = []string{strings.Repeat("x", 3000), strings.Repeat("y", 3000)} }, volume.ErrUnauthenticated, `is for ["xxx`},
		{"long claims", func(c issuer.Claims) { c["sub"] = strings.Repeat("x", 3000) }, volume.ErrUnauthenticated, "..."},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := issuer.ClaimsOf(pod, "vault", now, time.Hour)
			c.change(claims)
			err := read(t, i.Sign(claims)).Check(pod, now)
			if c.want == nil && err != nil || c.want != nil && (!errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.says)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
	if err := read(t, i.Token(pod, "vault", time.Hour)).Check(podtoken.Pod{}, now); !errors.Is(err, volume.ErrUnauthenticated) {
		t.Errorf("a pod without a name: %v", err)
	}
}

const unsigned = "eyJhbGciOiJub25lIn0.eyJhdWQiOlsidmF1bHQiXX0."

func TestWhatIsNoTokenIsRefusedWithoutShowingIt(t *testing.T) {
	const canary = "canary-of-a-token"
	for name, text := range map[string]string{
		"no JSON":              canary,
		"half of it":           `{"vault":{"token":"` + canary,
		"a list":               `["` + canary + `"]`,
		"a number":             `{"vault":{"token":17}}`,
		"not a token":          `{"vault":{"token":"` + canary + `"}}`,
		"empty":                `{"vault":{"token":""}}`,
		"unsigned":             `{"vault":{"token":"` + unsigned + `"}}`,
		"symmetric":            `{"vault":{"token":"eyJhbGciOiJIUzI1NiJ9.eyJhdWQiOlsidmF1bHQiXX0.c2lnbmF0dXJl"}}`,
		"claims are no object": `{"vault":{"token":"eyJhbGciOiJFUzI1NiJ9.WzFd.c2lnbmF0dXJl"}}`,
		"too long":             `{"vault":{"token":"` + strings.Repeat(canary, 2000) + `"}}`,
		"much too long":        `{"` + strings.Repeat(canary, 20000) + `":{"token":"a"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			set, err := podtoken.Read(nil, map[string]string{podtoken.KeyTokens: text})
			if err == nil {
				_, err = set.For("vault")
			}
			if !errors.Is(err, volume.ErrUnauthenticated) || strings.Contains(fmt.Sprint(err), "passed no token") {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error shows it: %v", err)
			}
		})
	}
}

func TestATokenThatCannotBeReadHidesNoOther(t *testing.T) {
	good := issuer.New().Token(thePod(), "vault", time.Hour)
	set, err := podtoken.Read(map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{"vault": good, "cloud": "none"})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token, err := set.For("vault"); err != nil || token.Text.Reveal() != good {
		t.Errorf("the good one: %v", err)
	}
	if _, err := set.For("cloud"); !errors.Is(err, volume.ErrUnauthenticated) || !strings.Contains(err.Error(), `"cloud" is no signed`) {
		t.Errorf("the other one: %v", err)
	}
}

func TestALongAudienceMakesNoLongError(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for name, tokens := range map[string]map[string]string{
		"a good token": {long: issuer.New().Token(thePod(), long, time.Hour), "other": "none"},
		"no token":     {long: "none"},
		"a long token": {long: strings.Repeat("y", 20_000)},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := podtoken.Read(map[string]string{podtoken.KeyTokens: issuer.Tokens(tokens)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, audience := range []string{"vault", long} {
				if _, err := set.For(audience); err != nil && len(err.Error()) > 1000 {
					t.Errorf("an error of %d bytes: %.300s", len(err.Error()), err)
				} else if err == nil && audience == "vault" {
					t.Error("there is a token for vault")
				}
			}
		})
	}
}

func TestATokenForNobodyIsForNobody(t *testing.T) {
	pod := thePod()
	token := podtoken.Token{Claims: podtoken.Claims{
		Subject: "system:serviceaccount:" + pod.Namespace + ":" + pod.ServiceAccount, Audiences: []string{"api"}, Expires: time.Now().Add(time.Hour),
		Namespace: pod.Namespace, ServiceAccount: pod.ServiceAccount, Pod: pod.Name, PodUID: pod.UID,
	}}
	if err := token.Check(pod, time.Now()); !errors.Is(err, volume.ErrUnauthenticated) {
		t.Errorf("got %v", err)
	}
}

func TestPodInfoIsNeeded(t *testing.T) {
	for _, key := range []string{podtoken.KeyPodName, podtoken.KeyPodNamespace, podtoken.KeyPodUID, podtoken.KeyServiceAccount} {
		info := issuer.Context(thePod())
		delete(info, key)
		if _, err := podtoken.PodOf(info); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), key) {
			t.Errorf("without %s: %v", key, err)
		}
	}
}

func TestATokenPrintsNothingOfItself(t *testing.T) {
	text := issuer.New().Token(thePod(), "vault", time.Hour)
	token := read(t, text)
	set, err := podtoken.Read(map[string]string{podtoken.KeyTokens: issuer.Tokens(map[string]string{"vault": text})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(text, ".")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, v := range []any{token, &token, set, &set} {
			if shown := fmt.Sprintf(verb, v); slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(shown, p) }) {
				t.Errorf("%s of %T shows a part of the token: %s", verb, v, shown)
			}
		}
	}
	if got := set.Audiences(); !slices.Equal(got, []string{"vault"}) {
		t.Errorf("audiences %q", got)
	}
}

// FuzzRead demands of whatever is passed as tokens that nothing panics, that every
// error is of a kind that a caller knows, and that no token that is accepted belongs
// to another pod.
func FuzzRead(f *testing.F) {
	i, pod, now := issuer.New(), thePod(), time.Unix(1_800_000_000, 0)
	good := i.Sign(issuer.ClaimsOf(pod, "vault", now, time.Hour))
	f.Add(issuer.Tokens(map[string]string{"vault": good}))
	f.Add(issuer.Tokens(map[string]string{"": good, "vault": good}))
	f.Add(`{"vault":{"token":"` + unsigned + `"}}`)
	f.Add(`{"vault":null}`)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		set, err := podtoken.Read(nil, map[string]string{podtoken.KeyTokens: text})
		if err != nil {
			if !errors.Is(err, volume.ErrUnauthenticated) {
				t.Fatalf("another kind of error: %v", err)
			}
			return
		}
		for _, audience := range set.Audiences() {
			token, err := set.For(audience)
			if err != nil {
				t.Fatal(err)
			}
			if token.Check(pod, now) == nil && (token.Claims.PodUID != pod.UID || token.Claims.Namespace != pod.Namespace || !token.Claims.Expires.After(now)) {
				t.Errorf("accepted: %+v", token.Claims)
			}
		}
	})
}
