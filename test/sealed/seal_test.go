package sealed

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// poolSize is that of the pools of these tests, but for the benchmark.
const poolSize = volume.GiB

func TestSealing(t *testing.T) {
	s := newSite(t, poolSize)
	for _, part := range []struct {
		name string
		run  func(*site)
	}{
		{"nothing of it is to be read in the image", nothingInTheImage},
		{"what the kernel encrypts and what not", whatCanBeEncrypted},
		{"a refused pod gets nothing", refusedPodGetsNothing},
		{"a wrong key is not bound", wrongKeyIsNotBound},
		{"a directory that is not sealed is not bound", unsealedDirectoryIsNotBound},
		{"what is lost is not made anew", lostIsNotMadeAnew},
		{"a key opens the filesystem, not a pod", keyOpensTheFilesystem},
		{"a first publish that was cut off goes on", cutOffPublishGoesOn},
	} {
		s.run(part.name, part.run)
	}
}

func nothingInTheImage(s *site) {
	const secretName, openName = "name-that-nobody-must-read", "name-that-may-be-read"
	const attribute, value = "user.attribute-in-the-clear", "value-in-the-clear"
	secretText, openText := strings.Repeat("text that nobody must read/", 4096), strings.Repeat("text that may be read/", 4096)
	e := s.ext4(orchestrator.Claim{Name: "image"})
	target := e.publish(newKeeper(s.t), "pod-1")
	s.must(os.WriteFile(filepath.Join(target, secretName), []byte(secretText), 0o600))
	s.must(unix.Setxattr(filepath.Join(target, secretName), attribute, []byte(value), 0))
	s.must(os.WriteFile(filepath.Join(e.Staging, openName), []byte(openText), 0o600))
	e.end("pod-1")
	for _, c := range []struct {
		what, text string
		there      bool
	}{
		{"the name of a sealed file", secretName, false},
		{"the content of a sealed file", secretText[:200], false},
		{"the name of an extended attribute of a sealed file", strings.TrimPrefix(attribute, "user."), true},
		{"the value of an extended attribute of a sealed file", value, true},
		{"the name of a file beside them", openName, true},
		{"the content of a file beside them", openText[:200], true},
	} {
		if n := count(s.t, e.image(), []byte(c.text)); (n > 0) != c.there {
			s.t.Errorf("%s is %d times in the image", c.what, n)
		}
	}
}

func whatCanBeEncrypted(s *site) {
	plain := s.plain(orchestrator.Claim{Name: "as-the-driver-makes-it"})
	plain.stage()
	root, err := plain.Root()
	s.must(err)
	_, err = AddKey(root, make([]byte, KeySize))
	s.mustBe(err, unix.EOPNOTSUPP, "add a key to an ext4 without the feature")
	root.Close()
	plain.unstage()

	e := s.ext4(orchestrator.Claim{Name: "kinds"})
	root, err = e.Root()
	s.must(err)
	defer root.Close()
	id, err := AddKey(root, []byte(strings.Repeat("k", KeySize)))
	s.must(err)
	s.mustBe(SetPolicy(root, id), unix.ENOTEMPTY, "encrypt the root, in which is lost+found")
	s.must(os.Remove(filepath.Join(e.Staging, "lost+found")))
	s.mustBe(SetPolicy(root, id), unix.EPERM, "encrypt the empty root")
	full := filepath.Join(e.Staging, "full")
	s.must(os.MkdirAll(full+"/file", 0o755))
	dir, err := os.Open(full)
	s.must(err)
	defer dir.Close()
	s.mustBe(SetPolicy(dir, id), unix.ENOTEMPTY, "encrypt a directory that is not empty")
	_, err = RemoveKeyOfAll(root, id)
	s.must(err)
	empty := filepath.Join(e.Staging, "empty")
	s.must(os.Mkdir(empty, 0o755))
	unsealed, err := os.Open(empty)
	s.must(err)
	defer unsealed.Close()
	// The kernel lets CAP_FOWNER name a key that nobody has given it.
	withoutCapabilities(s.t, func() { err = SetPolicy(unsealed, id) })
	s.mustBe(err, unix.ENOKEY, "encrypt with a key that is not there, without capabilities")
	s.must(SetPolicy(unsealed, id))
	_, err = os.Create(filepath.Join(empty, "file"))
	s.mustBe(err, unix.ENOKEY, "make a file in a directory whose key is not there")
	root.Close()
	dir.Close()
	unsealed.Close()

	target := e.publish(newKeeper(s.t), "pod-1")
	for _, c := range []struct {
		path      string
		encrypted bool
		direct    bool
	}{
		{filepath.Join(target, "sealed"), true, false},
		{filepath.Join(e.Staging, "beside"), false, true},
	} {
		s.must(os.WriteFile(c.path, []byte("x"), 0o600))
		f, err := os.Open(c.path)
		s.must(err)
		look, err := LookAt(f)
		s.must(errors.Join(err, f.Close()))
		if look.Encrypted != c.encrypted || (look.DirectAlign > 0) != c.direct {
			s.t.Errorf("%s: %+v, want encrypted %v, direct I/O %v", filepath.Base(c.path), look, c.encrypted, c.direct)
		}
	}
	e.end("pod-1")
}

func refusedPodGetsNothing(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "refused"})
	keeper := newKeeper(s.t)
	keeper.Refuse = true
	s.mustBe(e.Publish(s.ctx, keeper, e.target("pod-1")), volume.ErrDenied, "a first publish")
	e.mustNotBeMounted("pod-1")
	if _, err := os.Stat(filepath.Join(e.Staging, DirName)); err == nil {
		s.t.Error("a refused pod has made the directory")
	}
	keeper.Refuse = false
	e.write(filepath.Join(e.publish(keeper, "pod-1"), "file"), 1)
	e.end("pod-1")

	e.stage()
	keeper.Refuse = true
	s.mustBe(e.Publish(s.ctx, keeper, e.target("pod-1")), volume.ErrDenied, "a later publish")
	e.mustNotBeMounted("pod-1")
	e.mustHaveKey(KeyAbsent)
	// What a pod could do if the locked tree were bound: read nothing, destroy all.
	names := e.sealedNames()
	if len(names) != 1 || names[0] == "file" {
		s.t.Fatalf("the locked directory shows %q", names)
	}
	path := filepath.Join(e.Staging, DirName, names[0])
	_, err := os.ReadFile(path)
	s.mustBe(err, unix.ENOKEY, "read a locked file")
	s.mustBe(os.WriteFile(filepath.Join(e.Staging, DirName, "new"), nil, 0o600), unix.ENOKEY, "make a file in a locked directory")
	if err := os.Remove(path); err != nil {
		s.t.Errorf("remove a locked file: %v, but the ADR says that this works", err)
	}
	e.unstage()
}

func wrongKeyIsNotBound(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "wrong-key"})
	keeper := newKeeper(s.t)
	e.publish(keeper, "pod-1")
	e.unpublish("pod-1")
	s.must(e.Lock())
	names, err := os.OpenRoot(e.Staging)
	s.must(err)
	defer names.Close()
	right, _, err := ReadRecord(names)
	s.must(err)
	_, wrapped, err := keeper.New(s.ctx)
	s.must(err)
	s.must(Record{KeyID: right.KeyID, Wrapped: wrapped}.Write(names))
	s.mustBe(e.Publish(s.ctx, keeper, e.target("pod-1")), volume.ErrPrecondition, "publish with another key")
	e.mustNotBeMounted("pod-1")
	e.mustHaveKey(KeyAbsent)

	// A record that somebody has changed as a whole: the policy of the directory tells.
	other, wrapped, err := keeper.New(s.ctx)
	s.must(err)
	root, err := e.Root()
	s.must(err)
	defer root.Close()
	id, err := addText(root, other.Reveal())
	s.must(err)
	_, err = RemoveKeyOfAll(root, id)
	s.must(err)
	s.must(Record{KeyID: id.String(), Wrapped: wrapped}.Write(names))
	s.mustBe(e.Publish(s.ctx, keeper, e.target("pod-1")), volume.ErrPrecondition, "publish with another record")
	e.mustNotBeMounted("pod-1")
	e.mustHaveKey(KeyAbsent)

	s.must(right.Write(names))
	e.publish(keeper, "pod-1")
	names.Close()
	root.Close()
	e.end("pod-1")
}

func unsealedDirectoryIsNotBound(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "planted"})
	dir := filepath.Join(e.Staging, DirName)
	s.must(os.Mkdir(dir, 0o755))
	s.must(os.WriteFile(filepath.Join(dir, "planted"), nil, 0o600))
	s.mustBe(e.Publish(s.ctx, newKeeper(s.t), e.target("pod-1")), volume.ErrPrecondition, "publish a directory with plain files")
	e.mustNotBeMounted("pod-1")
	e.mustHaveKey(KeyAbsent)
	e.unstage()
}

// lostIsNotMadeAnew: a repair of the filesystem may put the record or the directory into
// lost+found.
func lostIsNotMadeAnew(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "lost"})
	keeper := newKeeper(s.t)
	e.write(filepath.Join(e.publish(keeper, "pod-1"), "file"), 4)
	e.unpublish("pod-1")
	s.must(e.Lock())
	for _, name := range []string{RecordName, DirName} {
		from, to := filepath.Join(e.Staging, name), filepath.Join(e.Staging, "lost+found", "found")
		s.must(os.Rename(from, to))
		s.mustBe(e.Publish(s.ctx, keeper, e.target("pod-1")), volume.ErrDataLoss, "publish without "+name)
		e.mustNotBeMounted("pod-1")
		if _, err := os.Stat(from); err == nil {
			s.t.Errorf("%s was made anew", name)
		}
		s.must(os.Rename(to, from))
		e.mustHaveKey(KeyAbsent)
	}
	e.verify(filepath.Join(e.publish(keeper, "pod-1"), "file"), 4)
	e.end("pod-1")
}

func keyOpensTheFilesystem(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "two-pods"})
	keeper := newKeeper(s.t)
	e.write(filepath.Join(e.publish(keeper, "pod-1"), "file"), 2)
	// The staging mount shows the same in the clear, and so would a bind made without
	// asking: that is why each pod is asked for.
	e.verify(filepath.Join(e.Staging, DirName, "file"), 2)
	keeper.Refuse = true
	s.mustBe(e.Publish(s.ctx, keeper, e.target("pod-2")), volume.ErrDenied, "publish for a second pod that is refused")
	e.mustNotBeMounted("pod-2")
	e.mustHaveKey(KeyPresent) // the first pod goes on
	e.verify(filepath.Join(e.target("pod-1"), "file"), 2)
	e.end("pod-1")
}

// cutOffPublishGoesOn shuts the filesystem down without its journal after each step of
// a first publish, as a power cut would, and publishes again.
func cutOffPublishGoesOn(s *site) {
	cut := errors.New("cut off")
	for _, step := range []string{StepKeyMade, StepDirectory, StepRecorded, StepSealed} {
		e := s.ext4(orchestrator.Claim{Name: "cut-off-" + strings.ReplaceAll(step, " ", "-")})
		keeper := newKeeper(s.t)
		v := e.Volume
		v.Interrupt = func(at string) error {
			if at != step {
				return nil
			}
			root, err := v.Root()
			if err != nil {
				return err
			}
			defer root.Close()
			return errors.Join(cut, Shutdown(root, ShutdownAtOnce))
		}
		s.mustBe(v.Publish(s.ctx, keeper, e.target("pod-1")), cut, step)
		e.mustNotBeMounted("pod-1")
		e.unstage()

		e.stage()
		before, kerr := e.KeyID()
		if (kerr == nil) != (step == StepRecorded || step == StepSealed) {
			s.t.Errorf("after %q: the record's key: %v", step, kerr)
		}
		e.write(filepath.Join(e.publish(keeper, "pod-1"), "file"), 3)
		after, err := e.KeyID()
		s.must(err)
		if kerr == nil && before != after {
			s.t.Errorf("after %q: the key was %s and is %s", step, before, after)
		}
		e.end("pod-1")
		e.stage()
		e.verify(filepath.Join(e.publish(keeper, "pod-1"), "file"), 3)
		e.end("pod-1")
		s.must(e.driver.Delete(s.ctx, e.id))
	}
}
