package identityvolume

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// inside gives a path to what is in a pod's volume that can be written to, as a pod has
// that may do anything.
func (s *scene) inside(target string, do func(dir string) error) {
	s.t.Helper()
	tree, err := s.writer(target)
	if err != nil {
		s.t.Fatal(err)
	}
	defer tree.Close()
	root, err := tree.Root()
	if err != nil {
		s.t.Fatal(err)
	}
	defer root.Close()
	if err := do(fmt.Sprintf("/proc/self/fd/%d", root.Fd())); err != nil {
		s.t.Fatal(err)
	}
}

// has says whether one of these is in a pod's volume.
func (s *scene) has(pod podtoken.Pod, names ...string) bool {
	for _, name := range names {
		if _, err := os.Lstat(s.target(pod) + "/" + name); err == nil {
			return true
		}
	}
	return false
}

// soon demands that something ends.
func soon(t *testing.T, what string, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

func TestNothingThatAPodLeavesKeepsItsVolume(t *testing.T) {
	for name, put := range map[string]func(dir string) error{
		"a FIFO": func(dir string) error { return unix.Mkfifo(dir+"/x", 0o666) },
		"a FIFO in place of a file": func(dir string) error {
			return errors.Join(os.Remove(dir+"/..data/password"), unix.Mkfifo(dir+"/..data/password", 0o440))
		},
		"a tree": func(dir string) error { return os.MkdirAll(dir+"/a/b/c", 0o700) },
		"a large sparse file": func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/x", nil, 0o600), os.Truncate(dir+"/x", 1<<46))
		},
		"a deep tree": func(dir string) error { return os.MkdirAll(dir+strings.Repeat("/d", 250), 0o700) },
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %v", name, restarted), func(t *testing.T) {
				s := newScene(t)
				pod := podNamed("web")
				s.mustPublish(pod, passwordOnly())
				s.inside(s.target(pod), put)
				if restarted {
					s.start()
				} else {
					s.eventually(pod, passwordOnly(), "it is mended", func() bool {
						st, err := os.Stat(s.target(pod) + "/password")
						return err == nil && st.Mode().IsRegular() && !s.has(pod, "x", "a", "d")
					})
					h := s.find(s.target(pod))
					h.stop()
					if err := soon(t, "a refresh", func() error { <-h.done; return nil }); err != nil {
						t.Fatal(err)
					}
					s.inside(s.target(pod), put)
				}
				if err := soon(t, "unpublish", func() error { return s.unpublish(pod) }); err != nil {
					t.Error(err)
				}
				s.wantNothing(pod)
				if n := s.said(WipeFailed); len(n) > 0 {
					t.Errorf("notices: %q", n)
				}
			})
		}
	}
}

// TestAVolumeThatCannotBeWipedIsUnmounted: with its mount its files are gone.
func TestAVolumeThatCannotBeWipedIsUnmounted(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	var unknown error
	s.inside(s.target(pod), func(dir string) error {
		if err := os.WriteFile(dir+"/stray", []byte("x"), 0o600); err != nil {
			return err
		}
		fd, err := unix.Open(dir+"/stray", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		const immutable = 0x10 // kernel, FS_IMMUTABLE_FL
		unknown = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, immutable)
		return unix.Close(fd)
	})
	if unknown != nil {
		t.Skipf("this kernel has no files on a tmpfs that nobody may change (it came with 6.6), or does not let root make them: %v", unknown)
	}
	if err := s.unpublish(pod); err != nil {
		t.Error(err)
	}
	s.wantNothing(pod)
	if n := s.said(WipeFailed); len(n) != 1 || !strings.Contains(n[0], "stray") {
		t.Errorf("notices: %q", n)
	}
}

// TestSomebodyElsesUnmountTakesNothingAway unmounts a published volume.
func TestSomebodyElsesUnmountTakesNothingAway(t *testing.T) {
	s := newScene(t)
	s.vault.LeaseTTL, s.vault.LoginTTL = time.Hour, 4*time.Hour
	pod := podNamed("web")
	attributes := map[string]string{
		AttributeSource: "main", AttributeCredentials: "db: {engine: database, mount: database, role: app}", AttributeFiles: "user: db.username\npassword: db.password",
	}
	s.mustPublish(pod, attributes)
	user, end := s.file(pod, "user"), s.endAt(s.target(pod))
	s.away()
	if err := unix.Unmount(s.target(pod), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	// Vault is away, and all is known.
	s.mustPublish(pod, attributes)
	s.at(pod)
	s.wantFile(pod, "user", user)
	if got := s.endAt(s.target(pod)); !got.Equal(end) {
		t.Errorf("the files end at %s, and ended at %s", got, end)
	}
	if !slices.Contains(s.vault.Leases(), user) || s.vault.Logins() != 1 {
		t.Errorf("the lease of %q was revoked: there are %q, and %d logins", user, s.vault.Leases(), s.vault.Logins())
	}
	if n := s.said(Remounted); len(n) != 1 {
		t.Errorf("notices: %q", s.notices)
	}
	s.vault.Misbehave(nil)
	s.after(45*time.Minute, pod, attributes, "the lease is renewed", func() bool { return s.vault.Count("sys/leases/renew") > 0 })
	s.wantFile(pod, "user", user)
	if err := s.unpublish(pod); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if left := s.vault.Leases(); len(left) > 0 || s.vault.Logins() > 0 {
		t.Errorf("leases of %q and %d logins are left", left, s.vault.Logins())
	}
}

// TestWhatWasUnmountedAndIsNotKnownIsPublishedAnew: after a restart nothing is in memory.
func TestWhatWasUnmountedAndIsNotKnownIsPublishedAnew(t *testing.T) {
	s := newScene(t)
	pod := podNamed("web")
	s.mustPublish(pod, passwordOnly())
	s.away()
	s.start()
	s.mustPublish(pod, passwordOnly())
	if err := unix.Unmount(s.target(pod), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	wantErr(t, s.publish(pod, passwordOnly()), volume.ErrUnavailable, "")
	s.vault.Misbehave(nil)
	// What refuses a first publish for good refuses it to no pod that runs.
	s.vault.Deny("secret/data/shop", true)
	for range 2 {
		wantErr(t, s.publish(pod, passwordOnly()), volume.ErrUnavailable, "anew")
	}
	s.vault.Deny("secret/data/shop", false)
	s.eventually(pod, nil, "it is published after all", func() bool { return s.publish(pod, passwordOnly()) == nil })
	s.wantFile(pod, "password", "first")
}
