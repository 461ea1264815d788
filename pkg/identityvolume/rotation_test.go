package identityvolume

import (
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
)

// TestTheNewestTokenIsShown: kubelet passes another token in time before the one at
// hand ends, and a service may ask more of it than that it is valid.
func TestTheNewestTokenIsShown(t *testing.T) {
	s := newScene(t)
	var mu sync.Mutex
	var newest string
	var old int
	s.vault.Verify = func(_, jwt string) string {
		mu.Lock()
		defer mu.Unlock()
		if jwt != newest {
			old++
			return "that token is an old one"
		}
		return ""
	}
	pod := podNamed("web-0")
	publish := func() {
		t.Helper()
		req := s.request(pod, passwordOnly())
		set, err := podtoken.Read(req.GetSecrets(), nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := set.For("vault")
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		newest = token.Text.Reveal()
		mu.Unlock()
		if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	s.wantFile(pod, "password", "first")
	for _, password := range []string{"second", "third"} {
		// The login is gone, so that the token is shown again.
		s.vault.ForgetLogins()
		s.vault.Put("secret/data/shop", map[string]any{"password": password})
		publish()
		s.eventually(pod, nil, "the file has "+password, func() bool { return s.file(pod, "password") == password })
	}
	mu.Lock()
	defer mu.Unlock()
	if n := s.vault.Count("/login"); n != 3 || old > 0 {
		t.Errorf("%d logins, %d of them with an old token", n, old)
	}
}

// TestATokenForNoOneDoesNotReplaceAGoodOne: what comes after it is the wrong pod's.
func TestATokenOfAnotherPodDoesNotReplaceAGoodOne(t *testing.T) {
	s := newScene(t)
	pod, other := podNamed("web-0"), podNamed("web-1")
	s.mustPublish(pod, passwordOnly())
	req := s.request(pod, passwordOnly())
	req.Secrets = s.request(other, passwordOnly()).Secrets
	s.vault.ForgetLogins()
	s.vault.Put("secret/data/shop", map[string]any{"password": "second"})
	again := func(req *csi.NodePublishVolumeRequest) {
		t.Helper()
		if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	again(req)
	// What is at hand is good, and is asked with at the next call that wakes the volume.
	s.eventually(pod, passwordOnly(), "the file is refreshed", func() bool { return s.file(pod, "password") == "second" })
	if n := len(s.said(RefreshFailed)); n != 1 {
		t.Errorf("%d notices of the wrong token, want one", n)
	}
}
