package tree

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

// garden is a directory with one of everything.
func garden(t *testing.T, dir string) {
	t.Helper()
	path := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(path("a", "deep", "place"), 0o755))
	must(os.WriteFile(path("a", "plain"), []byte("hello"), 0o640))
	must(os.WriteFile(path("empty"), nil, 0o600))
	must(os.WriteFile(path("a", "large"), bytes.Repeat([]byte("0123456789abcdef"), 200<<10), 0o644))
	must(os.WriteFile(path("strange\n\xff name"), []byte("x"), 0o644))
	must(os.WriteFile(path("setuid"), []byte("#!"), 0o755))
	must(os.Link(path("a", "plain"), path("a", "deep", "other-name")))
	must(os.Link(path("a", "plain"), path("z-third-name")))
	must(os.Symlink("../nowhere/at all", path("a", "link")))
	must(os.Symlink("/etc/passwd", path("outside")))
	must(unix.Mkfifo(path("fifo"), 0o622))
	must(unix.Mknod(path("device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(os.Mkdir(path("sticky"), 0o700))
	must(os.Chmod(path("sticky"), 0o777|os.ModeSticky|os.ModeSetgid))
	for name, owner := range map[string]int{"a": 1000, "a/plain": 999, "a/link": 33, "fifo": 5, "sticky": 70000, "setuid": 12, ".": 4711} {
		must(os.Lchown(path(name), owner, owner+1))
	}
	must(os.Chmod(path("setuid"), 0o755|os.ModeSetuid))
	must(os.Chmod(dir, 0o751))

	holes, err := os.Create(path("holes"))
	must(err)
	_, err = holes.WriteAt([]byte("in the middle"), 70<<20)
	must(err)
	must(holes.Truncate(100<<20 + 1))
	must(holes.Close())

	must(unix.Setxattr(path("a", "plain"), "user.colour", []byte("blue\x00green"), 0))
	must(unix.Setxattr(path("a"), "trusted.secret", []byte("x"), 0))
	must(unix.Setxattr(path("setuid"), "security.capability", capNetRaw(), 0))
	must(unix.Setxattr(path("a", "large"), "system.posix_acl_access", aclFor(1234), 0))
	must(unix.Setxattr(path("sticky"), "system.posix_acl_default", aclFor(4321), 0))

	old := time.Date(1999, 12, 31, 23, 59, 59, 123456789, time.UTC)
	for _, name := range []string{"a/plain", "a/deep", "a/deep/place", "a", ".", "fifo"} {
		must(os.Chtimes(path(name), old, old.Add(time.Hour)))
	}
	must(unix.UtimesNanoAt(unix.AT_FDCWD, path("a/link"), []unix.Timespec{{Sec: 1}, {Sec: 2, Nsec: 3}}, unix.AT_SYMLINK_NOFOLLOW))
}

// capNetRaw is cap_net_raw+ep (linux/capability.h, struct vfs_cap_data, version 2).
func capNetRaw() []byte {
	return []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}

// aclFor gives a user what the group has (linux/posix_acl_xattr.h).
func aclFor(uid uint32) []byte {
	entry := func(tag, perm uint16, id uint32) []byte {
		return []byte{byte(tag), byte(tag >> 8), byte(perm), byte(perm >> 8), byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)}
	}
	const none = 0xffffffff
	out := []byte{2, 0, 0, 0}
	for _, e := range [][]byte{entry(1, 6, none), entry(2, 4, uid), entry(4, 4, none), entry(0x10, 4, none), entry(0x20, 4, none)} {
		out = append(out, e...)
	}
	return out
}

func open1(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// copyOf copies and verifies.
func copyOf(t *testing.T, from, to string) (*Survey, error) {
	t.Helper()
	src, dst := open1(t, from), open1(t, to)
	s, err := Look(t.Context(), src)
	if err != nil {
		return nil, err
	}
	if err := s.Copy(t.Context(), src, dst, nil); err != nil {
		return s, err
	}
	return s, s.Verify(t.Context(), src, dst, nil)
}

func TestACopyHasEverything(t *testing.T) {
	roottest.Require(t)
	for name, target := range map[string]func() string{
		"ext4": t.TempDir,
		"xfs":  func() string { return scratch.XFS(t, 600*volume.MiB) },
	} {
		t.Run(name, func(t *testing.T) {
			from, to := t.TempDir(), target()
			garden(t, from)
			// What mkfs.ext4 leaves in a new filesystem is not in the way.
			if err := os.MkdirAll(filepath.Join(to, lostAndFound), 0o700); err != nil {
				t.Fatal(err)
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(from, "socket")})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			before := snapshotOf(t, from)
			s, err := copyOf(t, from, to)
			if err != nil {
				t.Fatal(err)
			}
			if diff := differenceOf(before, snapshotOf(t, from)); diff != "" {
				t.Errorf("the source changed: %s", diff)
			}
			// Verified by other eyes than its own.
			want, have := snapshotOf(t, from), snapshotOf(t, to)
			delete(want, "socket")
			delete(have, lostAndFound)
			if diff := differenceOf(want, have); diff != "" {
				t.Errorf("the copy differs: %s", diff)
			}
			if s.Entries != len(want) || s.Content < 3*volume.MiB || s.Content > 5*volume.MiB {
				t.Errorf("%d entries, %s; there are %d", s.Entries, s.Content, len(want))
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(to, "holes"), &st); err != nil || st.Blocks*512 > 1<<20 {
				t.Errorf("the copy of a sparse file takes %d bytes (%v)", st.Blocks*512, err)
			}
			notes := strings.Join(s.Notes(), "\n")
			for _, words := range []string{"1 sockets were left out", `"socket"`, "1 device nodes were copied", `"device"`} {
				if !strings.Contains(notes, words) {
					t.Errorf("the notes do not say %q:\n%s", words, notes)
				}
			}
		})
	}
}

// snapshotOf describes every file below a directory by what the tools of the machine
// say: each line is a path.
func snapshotOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := runScript(t, `cd "$1" && find . -printf '%P\0%y %m %U %G %T@ %l \0'`, dir)
	parts := strings.Split(out, "\x00")
	found := map[string]string{}
	for i := 0; i+1 < len(parts); i += 2 {
		path := parts[i]
		full := filepath.Join(dir, path)
		line := parts[i+1] + attributesOf(t, full)
		var st unix.Stat_t
		if err := unix.Lstat(full, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			line += strings.Fields(runScript(t, `sha256sum < "$1"`, full))[0]
		}
		if path == "" {
			path = "."
		}
		found[path] = line
	}
	return found
}

// runScript runs a line of shell with one argument.
func runScript(t *testing.T, line, argument string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line, "sh", argument).Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(out)
}

func attributesOf(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || name == "security.selinux" || strings.HasPrefix(name, "trusted.SGI_ACL_") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name+"="+string(value[:n]))
	}
	return strings.Join(all, ";") + " "
}

func differenceOf(want, have map[string]string) string {
	for path, w := range want {
		if h, ok := have[path]; !ok || h != w {
			return path + ": have " + h + ", want " + w
		}
	}
	for path := range have {
		if _, ok := want[path]; !ok {
			return path + " is too much"
		}
	}
	return ""
}

func TestHardLinksStayOneFile(t *testing.T) {
	roottest.Require(t)
	from, to := t.TempDir(), t.TempDir()
	garden(t, from)
	if _, err := copyOf(t, from, to); err != nil {
		t.Fatal(err)
	}
	inodes := map[uint64]bool{}
	for _, name := range []string{"a/plain", "a/deep/other-name", "z-third-name"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(to, name), &st); err != nil || st.Nlink != 3 {
			t.Errorf("%s has %d links (%v)", name, st.Nlink, err)
		}
		inodes[st.Ino] = true
	}
	if len(inodes) != 1 {
		t.Errorf("they are %d files", len(inodes))
	}
}

func TestAFileThatIsOpenForWritingIsRefused(t *testing.T) {
	roottest.Require(t)
	from := t.TempDir()
	garden(t, from)
	f, err := os.OpenFile(filepath.Join(from, "a", "plain"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Look(t.Context(), open1(t, from))
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "a/plain") && !strings.Contains(err.Error(), "a/deep/other-name") {
		t.Errorf("with a writer: %v", err)
	}
	// Also if only a mapping is left of it.
	rw, err := os.OpenFile(filepath.Join(from, "a", "plain"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	mapping, err := unix.Mmap(int(rw.Fd()), 0, 5, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err := errors.Join(err, f.Close(), rw.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Look(t.Context(), open1(t, from)); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("with a mapping: %v", err)
	}
	if err := unix.Munmap(mapping); err != nil {
		t.Fatal(err)
	}
	if _, err := Look(t.Context(), open1(t, from)); err != nil {
		t.Errorf("without: %v", err)
	}
}

func TestAMountBelowIsRefused(t *testing.T) {
	roottest.Require(t)
	from := t.TempDir()
	garden(t, from)
	root, err := mount.OpenRoot(from)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	place := filepath.Join(from, "a", "deep", "place")
	target, err := root.CreateTarget(place, mount.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	m, err := mount.New(t.Context(), mount.Config{FSType: "tmpfs"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Attach(target), m.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(place, 0); err != nil {
			t.Error(err)
		}
	})
	_, err = Look(t.Context(), open1(t, from))
	if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "a/deep/place") {
		t.Errorf("%v", err)
	}
}

// Whatever changes in the source, at whatever time, is seen.
func TestASourceThatChangesIsRefused(t *testing.T) {
	roottest.Require(t)
	changes := map[string]func(dir string) error{
		"a byte": func(dir string) error {
			// With the old time of modification: the time of change tells.
			path := filepath.Join(dir, "a", "large")
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("!"), 1<<20)
			return errors.Join(err, f.Close(), os.Chtimes(path, st.ModTime(), st.ModTime()))
		},
		"a new file":       func(dir string) error { return os.WriteFile(filepath.Join(dir, "a", "new"), nil, 0o600) },
		"a file that goes": func(dir string) error { return os.Remove(filepath.Join(dir, "empty")) },
		"a mode":           func(dir string) error { return os.Chmod(filepath.Join(dir, "empty"), 0o604) },
		"an attribute":     func(dir string) error { return unix.Setxattr(filepath.Join(dir, "sticky"), "user.a", []byte("b"), 0) },
		"a rename":         func(dir string) error { return os.Rename(filepath.Join(dir, "empty"), filepath.Join(dir, "empti")) },
	}
	for name, change := range changes {
		for _, when := range []string{"after the survey", "after the copy"} {
			t.Run(name+" "+when, func(t *testing.T) {
				from, to := t.TempDir(), t.TempDir()
				garden(t, from)
				src, dst := open1(t, from), open1(t, to)
				s, err := Look(t.Context(), src)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond) // the clock of a filesystem may have ticks of 4 ms
				if when == "after the survey" {
					if err := change(from); err != nil {
						t.Fatal(err)
					}
					err = s.Copy(t.Context(), src, dst, nil)
				} else {
					if err := s.Copy(t.Context(), src, dst, nil); err != nil {
						t.Fatal(err)
					}
					if err := change(from); err != nil {
						t.Fatal(err)
					}
					err = s.Verify(t.Context(), src, dst, nil)
				}
				if !errors.Is(err, volume.ErrInUse) {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// Whatever is wrong with a copy is seen.
func TestADamagedCopyIsRefused(t *testing.T) {
	roottest.Require(t)
	damages := map[string]func(dir string) error{
		"a byte": func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "a", "large"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			st, err := f.Stat()
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("!"), 2<<20)
			return errors.Join(err, f.Close(), os.Chtimes(f.Name(), st.ModTime(), st.ModTime()))
		},
		"a byte in a hole": func(dir string) error {
			path := filepath.Join(dir, "holes")
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("!"), 10<<20)
			return errors.Join(err, f.Close(), os.Chtimes(path, st.ModTime(), st.ModTime()))
		},
		"an owner":            func(dir string) error { return os.Lchown(filepath.Join(dir, "a", "link"), 1, 1) },
		"a mode":              func(dir string) error { return os.Chmod(filepath.Join(dir, "empty"), 0o640) },
		"a time":              func(dir string) error { return os.Chtimes(filepath.Join(dir, "a", "plain"), time.Now(), time.Now()) },
		"an attribute":        func(dir string) error { return unix.Removexattr(filepath.Join(dir, "a"), "trusted.secret") },
		"one attribute more":  func(dir string) error { return unix.Setxattr(filepath.Join(dir, "empty"), "user.x", nil, 0) },
		"a file less":         func(dir string) error { return os.Remove(filepath.Join(dir, "fifo")) },
		"a file more":         func(dir string) error { return os.WriteFile(filepath.Join(dir, "a", "deep", "more"), nil, 0o600) },
		"a target":            func(dir string) error { return relink(filepath.Join(dir, "outside"), "/etc/shadow") },
		"a link that is none": func(dir string) error { return unlink(filepath.Join(dir, "z-third-name")) },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			garden(t, from)
			src, dst := open1(t, from), open1(t, to)
			s, err := Look(t.Context(), src)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Copy(t.Context(), src, dst, nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(t.Context(), src, dst, nil); err != nil {
				t.Fatal(err)
			}
			if err := damage(to); err != nil {
				t.Fatal(err)
			}
			if err := s.Verify(t.Context(), src, dst, nil); !errors.Is(err, volume.ErrDataLoss) {
				t.Errorf("%v", err)
			}
		})
	}
}

func relink(path, target string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(path), os.Symlink(target, path)); err != nil {
		return err
	}
	return errors.Join(
		os.Lchown(path, int(st.Uid), int(st.Gid)),
		unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
}

// unlink replaces a name of a file by a file of its own with the same content.
func unlink(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o640)
}

func TestTheFingerprintIsThatOfTheTree(t *testing.T) {
	roottest.Require(t)
	dir := t.TempDir()
	garden(t, dir)
	look := func() string {
		s, err := Look(t.Context(), open1(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		return s.Fingerprint
	}
	first := look()
	if again := look(); again != first {
		t.Error("it changed although nothing did")
	}
	time.Sleep(10 * time.Millisecond)
	if err := os.Chtimes(filepath.Join(dir, "empty"), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if again := look(); again == first {
		t.Error("it did not change")
	}
}

func TestACopyEndsWithItsContext(t *testing.T) {
	roottest.Require(t)
	from, to := t.TempDir(), t.TempDir()
	garden(t, from)
	src, dst := open1(t, from), open1(t, to)
	s, err := Look(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	err = s.Copy(ctx, src, dst, func(volume.Bytes) { cancel(enough) })
	if !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}

// ext4 has 4 KiB for the attributes of a file, xfs 64 KiB for each.
func TestAttributesThatDoNotFitAreRefusedWithAWayOut(t *testing.T) {
	roottest.Require(t)
	from := scratch.XFS(t, 300*volume.MiB)
	if err := os.WriteFile(filepath.Join(from, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(from, "file"), "user.large", make([]byte, 20000), 0); err != nil {
		t.Fatal(err)
	}
	_, err := copyOf(t, from, t.TempDir())
	if !errors.Is(err, volume.ErrOutOfRange) || !strings.Contains(err.Error(), "xfs") {
		t.Errorf("%v", err)
	}
}
