package sealed

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestTheLifeOfAKey(t *testing.T) {
	s := newSite(t, poolSize)
	for _, part := range []struct {
		name string
		run  func(*site)
	}{
		{"what removal does to who uses it", removalUnderUse},
		{"a driver that was killed leaves it", killedDriverLeavesIt},
		{"it goes with the last mount", goesWithTheLastMount},
		{"another mount namespace keeps it", foreignNamespaceKeepsIt},
		{"a pod of root can take it away", rootPodTakesIt},
		{"the keys that one user may have", keysOfOneUser},
	} {
		s.run(part.name, part.run)
	}
}

func removalUnderUse(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "removal"})
	keeper := newKeeper(s.t)
	target := e.publish(keeper, "pod-1")
	e.write(filepath.Join(target, "open"), 1)
	e.write(filepath.Join(target, "closed"), 2)
	f, err := os.OpenFile(filepath.Join(target, "open"), os.O_RDWR, 0)
	s.must(err)
	defer f.Close()

	s.mustBe(e.Lock(), volume.ErrInUse, "remove the key while a file is open")
	e.mustHaveKey(KeyIncompletelyRemoved)
	s.must(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	b := make([]byte, 4096)
	_, err = f.ReadAt(b, int64(dataSize)-4096)
	s.must(err)
	_, err = f.WriteAt(b, 0)
	s.must(errors.Join(err, f.Sync()))
	again, err := os.Open(filepath.Join(target, "open"))
	s.must(err) // an open file can be opened afresh, too
	again.Close()
	_, err = os.ReadFile(filepath.Join(target, "closed"))
	s.mustBe(err, unix.ENOKEY, "open another file")
	s.mustBe(os.WriteFile(filepath.Join(target, "new"), nil, 0o600), unix.ENOKEY, "make a file")
	// A pod whose key was removed reads nothing new and can still destroy.
	if err := os.Remove(filepath.Join(target, "closed")); err != nil {
		s.t.Errorf("remove a file after the removal of the key: %v, but the ADR says that this works", err)
	}

	f.Close()
	s.mustBe(e.Lock(), volume.ErrInUse, "remove the key while the directory is bound")
	e.unpublish("pod-1")
	s.must(e.Lock())
	e.mustHaveKey(KeyAbsent)
	if names := e.sealedNames(); len(names) != 1 || names[0] == "open" {
		s.t.Errorf("the locked directory shows %q", names)
	}
	e.publish(keeper, "pod-2")
	if _, err := os.Stat(filepath.Join(e.target("pod-2"), "open")); err != nil {
		s.t.Error(err)
	}
	e.end("pod-2")
}

func killedDriverLeavesIt(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "killed-driver"})
	keeper := newKeeper(s.t)
	target := e.publish(keeper, "pod-1")
	e.write(filepath.Join(target, "file"), 1)
	s.driver.Kill()
	e.verify(filepath.Join(target, "file"), 1)
	s.driver = s.box.Start()
	e.mustHaveKey(KeyPresent)
	e.stage() // kubelet may repeat it
	e.mustHaveKey(KeyPresent)
	e.verify(filepath.Join(e.publish(keeper, "pod-2"), "file"), 1)
	e.unpublish("pod-2")
	e.end("pod-1")
}

func goesWithTheLastMount(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "unmounted"})
	keeper := newKeeper(s.t)
	e.publish(keeper, "pod-1")
	e.unpublish("pod-1")
	e.mustHaveKey(KeyPresent) // unpublish alone leaves it
	e.unstage()
	e.stage()
	e.mustHaveKey(KeyAbsent)
	e.unstage()
}

// foreignNamespaceKeepsIt: an agent that was started while a volume was mounted has a
// copy of all mounts (pitfall L9).
func foreignNamespaceKeepsIt(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "foreign"})
	keeper := newKeeper(s.t)
	e.write(filepath.Join(e.publish(keeper, "pod-1"), "file"), 1)
	agent := exec.Command("unshare", "--mount", "--propagation", "private", "sleep", "600")
	s.must(agent.Start())
	end := func() {
		_ = agent.Process.Kill()
		_ = agent.Wait() // it was killed
	}
	defer end()
	proc := fmt.Sprintf("/proc/%d/", agent.Process.Pid)
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		comm, err := os.ReadFile(proc + "comm")
		s.must(err)
		if strings.TrimSpace(string(comm)) == "sleep" {
			break
		}
		if time.Now().After(limit) {
			s.t.Fatal("unshare has not started sleep")
		}
	}
	there := filepath.Join(proc, "root", e.Staging, DirName, "file")
	e.unpublish("pod-1")
	e.unstage()
	e.verify(there, 1) // no pod has the volume any more, and it is open

	// Locked before it is unstaged, it is not: there is no such name any more.
	e.stage()
	e.publish(keeper, "pod-1")
	e.unpublish("pod-1")
	s.must(e.Lock())
	_, err := os.ReadFile(there)
	s.mustBe(err, os.ErrNotExist, "read through the other namespace")
	e.unstage()
	if names, err := os.ReadDir(filepath.Dir(there)); err != nil || len(names) != 1 || names[0].Name() == "file" {
		s.t.Errorf("the other namespace sees %v, %v", names, err)
	}
	end()
}

// keyOwner is a user id that no container has.
const keyOwner = 3_999_999_999

// rootPodTakesIt: a key belongs to the users who added it (fsuid), and a container
// without capabilities still has the user of the driver, unless it has a user namespace.
// One with CAP_SETUID, which container runtimes give, can be any user.
func rootPodTakesIt(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "root-pod"})
	keeper := newKeeper(s.t)
	target := e.publish(keeper, "pod-1")
	e.write(filepath.Join(target, "file"), 1)
	id, err := e.KeyID()
	s.must(err)
	// A mount that is read-only holds nobody back.
	s.must(unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""))
	pod, err := os.Open(target)
	s.must(err)
	defer pod.Close()
	root, err := e.Root()
	s.must(err)
	defer root.Close()
	names, err := os.OpenRoot(e.Staging)
	s.must(err)
	defer names.Close()
	record, _, err := ReadRecord(names)
	s.must(err)
	key, err := keeper.Unwrap(s.ctx, record.Wrapped)
	s.must(err)

	none, setuid := []string(nil), []string{"setuid"}
	both := []int{0, keyOwner}
	for _, c := range []struct {
		what  string
		owner int
		pod   podProcess
		taken bool
	}{
		{"added by root, a pod without capabilities", 0, podProcess{capabilities: none, as: both}, true},
		{"added by root, a pod with a user namespace", 0, podProcess{capabilities: setuid, ownUsers: true, as: both}, false},
		{"added by a user that no container has, a pod without capabilities", keyOwner, podProcess{capabilities: none, as: both}, false},
		{"added by a user that no container has, a pod with CAP_SETUID that does not know which", keyOwner, podProcess{capabilities: setuid, as: []int{0, keyOwner - 1}}, false},
		{"added by a user that no container has, a pod with CAP_SETUID", keyOwner, podProcess{capabilities: setuid, as: both}, true},
		{"added by a user that no container has, a pod with CAP_SETUID and a user namespace", keyOwner, podProcess{capabilities: setuid, ownUsers: true, as: both}, false},
	} {
		_, err := RemoveKeyOfAll(root, id)
		s.must(err)
		asUser(s.t, c.owner, func() { _, err = addText(root, key.Reveal()) })
		s.must(err)
		e.mustHaveKey(KeyPresent)
		said, err := c.pod.takeKey(pod, id)
		if err != nil || !strings.HasPrefix(said, "as user 0 (") {
			s.t.Fatalf("%s: %v: %s", c.what, err, said)
		}
		s.t.Logf("%s: %s", c.what, said)
		if !c.taken {
			e.mustHaveKey(KeyPresent)
			e.verify(filepath.Join(target, "file"), 1)
			continue
		}
		e.mustHaveKey(KeyIncompletelyRemoved)
		_, err = os.ReadFile(filepath.Join(target, "file"))
		s.mustBe(err, unix.ENOKEY, c.what+": read a file afterwards")
		e.publish(keeper, "pod-2") // gives it back to all
		e.verify(filepath.Join(target, "file"), 1)
		e.unpublish("pod-2")
	}
	pod.Close()
	e.unpublish("pod-1")
	s.must(e.Lock())
	root.Close()
	names.Close()
	e.unstage()
}

// keysOfOneUser: the kernel limits the keys of every user but root
// (/proc/sys/kernel/keys/maxkeys), and each volume has one.
func keysOfOneUser(s *site) {
	e := s.ext4(orchestrator.Claim{Name: "many-keys"})
	root, err := e.Root()
	s.must(err)
	defer root.Close()
	text, err := os.ReadFile("/proc/sys/kernel/keys/maxkeys")
	s.must(err)
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	s.must(err)
	most := max(1000, limit+1)
	add := func() (n int, err error) {
		for n = range most {
			key := make([]byte, KeySize)
			_, _ = rand.Read(key) // never fails
			if _, err = AddKey(root, key); err != nil {
				return n, err
			}
		}
		return most, nil
	}
	var n int
	// Another limit, in bytes, may end it before. The kernel frees late what others leave.
	asUser(s.t, keyOwner-os.Getpid(), func() { n, err = add() })
	s.t.Logf("keys of a user of its own: %d of %d, then %v", n, limit, err)
	if n == 0 || n > limit || !errors.Is(err, unix.EDQUOT) {
		s.t.Errorf("%d keys, then %v: want at most %d, then %v", n, err, limit, unix.EDQUOT)
	}
	began := time.Now()
	n, err = add()
	s.must(err)
	s.t.Logf("keys of root: %d, one takes %s", n, time.Since(began)/time.Duration(most))
	root.Close()
	e.unstage()
}

// withoutCapabilities runs do as a process of the same user that has no capability.
func withoutCapabilities(t testing.TB, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		t.Fatal(err)
	}
	none := had
	none[0].Effective, none[1].Effective = 0, 0
	if err := unix.Capset(&header, &none[0]); err != nil {
		t.Fatal(err)
	}
	do()
	if err := unix.Capset(&header, &had[0]); err != nil {
		t.Fatal(err)
	}
}

// asUser runs do with another fsuid, which is the user that fscrypt asks for.
func asUser(t testing.TB, uid int, do func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	had, err := unix.SetfsuidRetUid(uid)
	if err != nil {
		t.Fatal(err)
	}
	do()
	if _, err := unix.SetfsuidRetUid(had); err != nil {
		t.Fatal(err)
	}
}
