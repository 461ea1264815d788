package identityvolume

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/fakevault"
)

// TestAPasswordThatIsAWordIsNotQuoted has Vault refuse with the password in its error,
// which looks like any other word there.
func TestAPasswordThatIsAWordIsNotQuoted(t *testing.T) {
	s := newScene(t)
	const password = "swordfish"
	s.vault.Put("secret/data/shop", map[string]any{"password": password})
	pod := podNamed("web-0")
	s.mustPublish(pod, passwordOnly())
	s.wantFile(pod, "password", password)
	s.vault.Misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		fakevault.Refuse(w, http.StatusForbidden, "nobody may have "+password)
		return true
	})
	s.eventually(pod, passwordOnly(), "a notice", func() bool { return len(s.said(Expired)) > 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.notices, "\n")
	if strings.Contains(all, password) || !strings.Contains(all, "nobody may have ***") {
		t.Errorf("the notices show the password, or nothing: %s", all)
	}
}

func TestWhatAVolumeHasLeavesItsErrors(t *testing.T) {
	credentials := func(fields ...string) map[string]credential.Credential {
		c := credential.Credential{Fields: map[string]secret.Text{}}
		for i, f := range fields {
			c.Fields[fmt.Sprint(i)] = secret.New(f)
		}
		return map[string]credential.Credential{"a": c}
	}
	h := &held{have: credentials("swordfish", "-----BEGIN KEY-----\n  abcdefgh\n-----END KEY-----\n", "app", ""), fresh: credentials("another")}
	err := h.hide(fmt.Errorf("read x: %w: swordfish, abcdefgh and another of app", volume.ErrDenied))
	if got, want := err.Error(), "read x: "+volume.ErrDenied.Error()+": ***, *** and *** of app"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, volume.ErrDenied) {
		t.Errorf("%v is no %v any more", err, volume.ErrDenied)
	}
	if plain := errors.New("nothing in it"); h.hide(plain).Error() != plain.Error() || h.hide(nil) != nil {
		t.Error("an error without secrets is another one")
	}
}

func TestWhatDoesNotSayWhenItEndsIsReadAgain(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		c    credential.Credential
		want time.Duration
		ok   bool
	}{
		{"a life", credential.Credential{Issued: now, Expires: now.Add(time.Hour)}, 40 * time.Minute, true},
		{"a secret", credential.Credential{Issued: now, Static: true}, 0, false},
		{"nothing is known", credential.Credential{Issued: now}, unknownAgain, true},
		{"nothing is known, and the source says how often", credential.Credential{Issued: now, Again: 5 * time.Minute}, 5 * time.Minute, true},
	} {
		at, ok := dueAt(c.c)
		if after := at.Sub(now); ok != c.ok || ok && (after > c.want || after < c.want*4/5) {
			t.Errorf("%s: it is read again after %s, %v; want a little less than %s, %v", c.name, after, ok, c.want, c.ok)
		}
	}
}
