package identityvolume

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// withoutDescriptors calls something while this process can open nothing.
func withoutDescriptors(t *testing.T, do func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	none := before
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	do()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
}

func TestWhatCannotBeLookedAtFailsNoRepublish(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	req := s.request(pod, passwordOnly())
	withoutDescriptors(t, func() {
		if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
			t.Error(err)
		}
	})
	// After a restart nothing is held yet: kubelet is to try again.
	s.start()
	withoutDescriptors(t, func() {
		_, err := s.NodePublishVolume(t.Context(), req)
		wantErr(t, err, volume.ErrUnavailable, "look whether something is published")
	})
	s.mustPublish(pod, passwordOnly())
	s.wantFile(pod, "password", "first")
}

// TestOneCallWorksOnATarget: kubelet's directory may have two spellings, which look like
// two targets to who counts calls.
func TestOneCallWorksOnATarget(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	goOn := s.hang()
	first := make(chan error, 1)
	go func() { first <- s.publish(pod, passwordOnly()) }()
	s.eventually(pod, nil, "Vault is asked", func() bool { return s.vault.Count("") > 0 })
	wantErr(t, s.publish(pod, passwordOnly()), volume.ErrBusy, "another call")
	wantErr(t, s.unpublish(pod), volume.ErrBusy, "another call")
	goOn()
	if err := <-first; err == nil {
		t.Error("it was published with what Vault did not say")
	}
	s.eventually(pod, nil, "it is published after all", func() bool { return s.publish(pod, passwordOnly()) == nil })
}

func TestAMountOnTopOfOursFailsNoRepublish(t *testing.T) {
	for _, kind := range []string{"ramfs", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			s := newScene(t)
			pod := podNamed("web")
			s.mustPublish(pod, passwordOnly())
			if err := unix.Mount("somebody-else", s.target(pod), kind, 0, ""); err != nil {
				t.Fatal(err)
			}
			token := func() secret.Text {
				h := s.find(s.target(pod))
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.token.Text
			}
			for range 3 {
				before := token()
				s.mustPublish(pod, passwordOnly())
				if token().Equal(before) {
					t.Error("the volume did not get the token of the call")
				}
			}
			s.eventually(pod, passwordOnly(), "a notice", func() bool { return len(s.said(RefreshFailed)) > 0 })
			// Nobody else's filesystem gets what is the pod's.
			if entries, err := os.ReadDir(s.target(pod)); err != nil || len(entries) > 0 {
				t.Errorf("in what is mounted on top there are %v, %v", entries, err)
			}
			// Who has nothing there is still told.
			s.start()
			wantErr(t, s.publish(pod, passwordOnly()), volume.ErrExists, "somebody-else")
			if err := unix.Unmount(s.target(pod), 0); err != nil {
				t.Fatal(err)
			}
			s.mustPublish(pod, passwordOnly())
			s.wantFile(pod, "password", "first")
			s.at(pod)
		})
	}
}

// TestDamageAndARefusalAreNotFinal is a running pod whose files are damaged, and a
// driver that starts when the pod may have nothing any more.
func TestDamageAndARefusalAreNotFinal(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	s.inside(s.target(pod), func(dir string) error { return os.Remove(dir + "/..data") })
	s.start()
	s.vault.Deny("secret/data/shop", true)
	err := s.publish(pod, passwordOnly())
	wantErr(t, err, volume.ErrUnavailable, "permission denied")
	if errors.Is(err, volume.ErrDenied) {
		t.Errorf("%v is final", err)
	}
	s.at(pod)
	s.vault.Deny("secret/data/shop", false)
	s.mustPublish(pod, passwordOnly())
	s.wantFile(pod, "password", "first")
}

// TestAVolumeThatIsNotReadOnlyIsKept: drivers before this one published such.
func TestAVolumeThatIsNotReadOnlyIsKept(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	req := s.request(pod, passwordOnly())
	req.Readonly = false
	for range 2 {
		if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
			t.Error(err)
		}
		s.start()
	}
	// Nor is it refused if its files are gone.
	s.inside(s.target(pod), func(dir string) error { return os.Remove(dir + "/..data") })
	if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
		t.Error(err)
	}
	s.wantFile(pod, "password", "first")
}

// TestADriverThatStopsRevokesNothingThatIsMounted: the one after it takes the volume
// over, and the pod starts with it.
func TestADriverThatStopsRevokesNothingThatIsMounted(t *testing.T) {
	s := newScene(t)
	s.vault.LeaseTTL, s.vault.LoginTTL = time.Hour, time.Hour
	pod := podNamed("web")
	attributes := map[string]string{
		AttributeSource: "main", AttributeCredentials: "db: {engine: database, mount: database, role: app}", AttributeFiles: "user: db.username",
	}
	s.Server.mu.Lock()
	s.stopped = true
	s.Server.mu.Unlock()
	wantErr(t, s.publish(pod, attributes), volume.ErrUnavailable, "stopping")
	user := s.file(pod, "user")
	s.start()
	s.away()
	s.mustPublish(pod, attributes)
	s.wantFile(pod, "user", user)
	if leases := s.vault.Leases(); len(leases) != 1 || leases[0] != user {
		t.Errorf("the files name %q, and the leases are of %q", user, leases)
	}
}

// TestAFencedVolumeStaysSoOverARestart: with the service away the files are still empty.
func TestAFencedVolumeStaysSoOverARestart(t *testing.T) {
	for name, empty := range map[string]func(s *scene, h *held) error{
		"replaced": func(_ *scene, h *held) error { return h.empty(h.now()) },
		"in place": func(s *scene, h *held) error { return s.blank(h.target) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			pod := podNamed("web")
			attributes := map[string]string{
				AttributeSource: "main", AttributeOnExpiry: "fence",
				AttributeCredentials: "web: {engine: pki, mount: pki, role: web, with: {common_name: web, ttl: 1h}}", AttributeFiles: "tls.key: web.private_key",
			}
			s.mustPublish(pod, attributes)
			s.away()
			h := s.find(s.target(pod))
			h.stop()
			<-h.done
			if err := empty(s, h); err != nil {
				t.Fatal(err)
			}
			s.start()
			s.ahead.Store(int64(2 * time.Hour))
			for range 2 {
				s.mustPublish(pod, attributes)
				if !s.States()["csi-web"].Fenced {
					t.Error("it passes for not fenced")
				}
				s.eventually(pod, attributes, "a refresh fails", func() bool { return len(s.said(RefreshFailed)) > 0 })
			}
			if n := s.said(Fenced); len(n) > 0 {
				t.Errorf("it is said once more: %q", n)
			}
			s.ahead.Store(0)
			s.vault.Misbehave(nil)
			s.eventually(pod, attributes, "a new key", func() bool { return len(s.file(pod, "tls.key")) > 0 })
			s.eventually(pod, nil, "nothing is fenced", func() bool { return !s.States()["csi-web"].Fenced })
		})
	}
}
