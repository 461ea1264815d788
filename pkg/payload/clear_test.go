package payload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// confined calls something with the capabilities that the driver has, and demands that
// it ends soon.
func confined(t *testing.T, call func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		data[0].Effective &= 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_CHOWN
		data[1].Effective = 0
		if err = errors.Join(err, unix.Capset(&header, &data[0])); err == nil {
			err = call()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

// stored is how much the filesystem of a directory holds, in files and in bytes.
func (s *scene) stored() (inodes uint64, bytes uint64) {
	s.t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(s.path, &fs); err != nil {
		s.t.Fatal(err)
	}
	return fs.Files - fs.Ffree, (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
}

func TestWipeEndsWhateverIsThere(t *testing.T) {
	const secret = "the secret"
	theirs := func(path string, mode os.FileMode) error {
		return errors.Join(os.Chmod(path, mode), os.Lchown(path, 1000, 1000))
	}
	for name, put := range map[string]func(dir string) error{
		"a FIFO":            func(dir string) error { return unix.Mkfifo(dir+"/x", 0o666) },
		"a FIFO of a set's": func(dir string) error { return unix.Mkfifo(dir+"/..1.0.aa/x", 0o666) },
		"a socket":          func(dir string) error { return unix.Mknod(dir+"/x", unix.S_IFSOCK|0o666, 0) },
		"a tree":            func(dir string) error { return os.MkdirAll(dir+"/a/b/c", 0o755) },
		"a deep tree": func(dir string) error {
			return os.MkdirAll(dir+strings.Repeat("/d", 260), 0o755)
		},
		"a tree of another's": func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.WriteFile(dir+"/a/b/x", []byte(secret), 0o600),
				theirs(dir+"/a/b/x", 0), theirs(dir+"/a/b", 0), theirs(dir+"/a", 0))
		},
		"a sparse file": func(dir string) error {
			f, err := os.Create(dir + "/x")
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte(secret), 1<<40)
			return errors.Join(err, f.Truncate(1<<46), f.Close())
		},
		"a link to elsewhere": func(dir string) error { return os.Symlink("/etc/passwd", dir+"/x") },
		"a link to a directory": func(dir string) error {
			outside := filepath.Dir(dir) + "/outside"
			return errors.Join(os.Mkdir(outside, 0o700), os.WriteFile(outside+"/file", []byte("stays"), 0o600), os.Symlink(outside, dir+"/x"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "4m")
			if err := errors.Join(os.Mkdir(s.path+"/..1.0.aa", 0o751), put(s.path)); err != nil {
				t.Fatal(err)
			}
			var open *os.File
			_ = filepath.WalkDir(s.path, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					open, err = os.Open(path)
				}
				return err
			})
			if err := confined(t, s.Wipe); err != nil {
				t.Error(err)
			}
			if entries, err := os.ReadDir(s.path); err != nil || len(entries) > 0 {
				t.Errorf("left: %v, %v", entries, err)
			}
			if open != nil {
				content := make([]byte, len(secret))
				for _, at := range []int64{0, 1 << 40} {
					if n, _ := open.ReadAt(content, at); strings.Contains(string(content[:n]), "secret") {
						t.Errorf("the open file holds %q at %d", content[:n], at)
					}
				}
				open.Close()
			}
			if outside := filepath.Dir(s.path) + "/outside/file"; name == "a link to a directory" {
				if text, err := os.ReadFile(outside); err != nil || string(text) != "stays" {
					t.Errorf("what a link leads to holds %q, %v", text, err)
				}
			}
			if inodes, bytes := s.stored(); inodes > 1 || bytes > 0 {
				t.Errorf("the filesystem still holds %d files, %d bytes", inodes, bytes)
			}
		})
	}
}

// TestMoreThanASetHasIsLeft is about who enlarged the filesystem.
func TestMoreThanASetHasIsLeft(t *testing.T) {
	for name, put := range map[string]func(dir string) error{
		"entries": func(dir string) error {
			var err error
			for i := range maxEntries + 10 {
				err = errors.Join(err, os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600))
			}
			return err
		},
		"levels": func(dir string) error { return os.MkdirAll(dir+strings.Repeat("/d", maxDepth+10), 0o700) },
		"bytes": func(dir string) error {
			return os.WriteFile(dir+"/x", make([]byte, maxWiped+1), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "256m")
			if err := put(s.path); err != nil {
				t.Fatal(err)
			}
			if err := confined(t, s.Wipe); !errors.Is(err, errTooMuch) || len(err.Error()) > 1000 {
				t.Errorf("got error %v", err)
			}
			if _, bytes := s.stored(); name == "bytes" && bytes > 0 {
				t.Errorf("%d bytes are stored", bytes)
			}
		})
	}
}

// TestWhatCannotBeRemovedStopsNoSet has a file that nobody may change, which a pod can
// make that has all capabilities.
func TestWhatCannotBeRemovedStopsNoSet(t *testing.T) {
	s := newScene(t, "4m")
	s.write(files("a", "1"))
	stray, err := os.Create(s.path + "/stray")
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	const immutable = 0x10 // kernel, FS_IMMUTABLE_FL
	if err := unix.IoctlSetPointerInt(int(stray.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skipf("this kernel has no such files on a tmpfs (it came with 6.6), or does not let root make them: %v", err)
	}
	defer func() {
		if err := unix.IoctlSetPointerInt(int(stray.Fd()), unix.FS_IOC_SETFLAGS, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := s.Write(files("a", "2", "b", "3"), gid, Set{}); !errors.Is(err, ErrLeft) || !strings.Contains(err.Error(), "stray") {
		t.Errorf("got error %v", err)
	}
	for name, want := range map[string]string{"a": "2", "b": "3"} {
		if text, err := os.ReadFile(s.path + "/" + name); err != nil || string(text) != want {
			t.Errorf("%s holds %q, %v", name, text, err)
		}
	}
	if err := confined(t, s.Wipe); err == nil || !strings.Contains(err.Error(), "stray") {
		t.Errorf("got error %v", err)
	}
	if entries, err := os.ReadDir(s.path); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestWithoutRoomForALinkTheOldSetStays fills the filesystem between two sets of which
// the second has two more files: at each step of writing it.
func TestWithoutRoomForALinkTheOldSetStays(t *testing.T) {
	// The root; a directory with a file; the link to it; and one to the file.
	const old = 1 + 2 + 1 + 1
	// A directory with three files, the links to two of them, and one to it.
	const needed = 4 + 2 + 1
	for room := range needed + 1 {
		s := newScene(t, fmt.Sprintf("4m,nr_inodes=%d", old+room))
		before, after := files("a", "1"), files("a", "2", "b", "3", "c", "4")
		s.write(before)
		err := s.Write(after, gid, Set{})
		switch {
		case room == needed:
			if err != nil {
				t.Errorf("with room for all: %v", err)
			}
			s.want(after)
		case !errors.Is(err, unix.ENOSPC):
			t.Errorf("with room for %d: got error %v", room, err)
		default:
			s.want(before)
		}
	}
}
