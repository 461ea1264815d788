package identityvolume

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAVolumeThatWasWipedIsPublishedAnew(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	open, err := os.Open(s.target(pod) + "/password")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	wantErr(t, s.unpublish(pod), volume.ErrInUse, "")
	s.start()
	// Strict, as at first: nobody starts without files.
	s.away()
	wantErr(t, s.publish(pod, passwordOnly()), volume.ErrUnavailable, "sealed")
	s.vault.Misbehave(nil)
	s.mustPublish(pod, passwordOnly())
	s.wantFile(pod, "password", "first")
	s.at(pod)
}

// TestWhatCannotBeReadAfterARestartEndsAllTheSame writes files whose end has come, as
// an earlier driver would have.
func TestWhatCannotBeReadAfterARestartEndsAllTheSame(t *testing.T) {
	for name, change := range map[string]func(*csi.NodePublishVolumeRequest){
		"no tokens":             func(r *csi.NodePublishVolumeRequest) { r.Secrets = nil },
		"a source that is gone": func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[AttributeSource] = "gone" },
		"a spec of another day": func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[AttributeFiles] = "password: {is: text}" },
	} {
		for _, policy := range []Policy{Keep, Fence} {
			t.Run(name+" with "+string(policy), func(t *testing.T) {
				s := newScene(t)
				pod := podNamed("web")
				attributes := with(passwordOnly(), AttributeOnExpiry, string(policy))
				s.mustPublish(pod, attributes)
				s.start()
				files := []payload.File{{Name: "password", Mode: 0o440, Content: secret.New("old")}}
				if err := s.replace(s.target(pod), files, 2000, payload.Set{Written: time.Now(), Expires: time.Now().Add(-time.Minute)}); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					req := s.request(pod, attributes)
					change(req)
					if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
						t.Error(err)
					}
				}
				if policy == Fence {
					s.eventually(pod, nil, "a notice", func() bool { return len(s.said(Fenced)) == 1 })
					s.wantFile(pod, "password", "")
				} else {
					s.eventually(pod, nil, "a notice", func() bool { return len(s.said(Expired)) == 1 })
					s.wantFile(pod, "password", "old")
				}
				// With everything as it was it is refreshed again.
				s.eventually(pod, attributes, "the file is back", func() bool { return s.file(pod, "password") == "first" })
				if n := s.said(Fenced); len(n) > 1 {
					t.Errorf("notices: %q", n)
				}
				if err := s.unpublish(pod); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestATokenThatCannotBeUsedReplacesNoneThatCan(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	for range 2 {
		req := s.request(pod, passwordOnly())
		req.Secrets = s.request(podNamed("other"), nil).Secrets
		if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if h := s.find(s.target(pod)); h == nil || !h.usable() {
		t.Error("the token at hand cannot be used any more")
	}
	said := func() int {
		n := 0
		for _, text := range s.said(RefreshFailed) {
			if strings.Contains(text, "without a token that can be used") {
				n++
			}
		}
		return n
	}
	if said() != 1 {
		t.Errorf("notices: %q", s.notices)
	}
	// It is news once more after it was over.
	s.mustPublish(pod, passwordOnly())
	req := s.request(pod, passwordOnly())
	req.Secrets = nil
	if _, err := s.NodePublishVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if said() != 2 {
		t.Errorf("notices: %q", s.notices)
	}
}

// TestAPolicyThatIsNotKnownEmptiesNothing is about one of a newer driver's.
func TestAPolicyThatIsNotKnownEmptiesNothing(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	s.start()
	files := []payload.File{{Name: "password", Mode: 0o440, Content: secret.New("old")}}
	if err := s.replace(s.target(pod), files, 2000, payload.Set{Written: time.Now(), Expires: time.Now().Add(-time.Minute)}); err != nil {
		t.Fatal(err)
	}
	s.mustPublish(pod, with(passwordOnly(), AttributeOnExpiry, "explode"))
	s.eventually(pod, nil, "a notice", func() bool { return len(s.said(Expired)) == 1 })
	s.wantFile(pod, "password", "old")
}
