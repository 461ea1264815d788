package payload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

const gid = 2000

// scene is a directory on a tmpfs, as a volume has.
type scene struct {
	Dir
	t    *testing.T
	path string
}

func newScene(t *testing.T, size string) *scene {
	t.Helper()
	roottest.Require(t)
	path := t.TempDir()
	if err := unix.Mount("payload", path, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &scene{Dir: In(file), t: t, path: path}
}

func files(pairs ...string) []File {
	var all []File
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, File{Name: pairs[i], Mode: 0o440, Content: secret.New(pairs[i+1])})
	}
	return all
}

func (s *scene) write(f []File) {
	s.t.Helper()
	if err := s.Write(f, gid, Set{Written: time.Now()}); err != nil {
		s.t.Fatal(err)
	}
}

// want demands that readers see exactly this.
func (s *scene) want(f []File) {
	s.t.Helper()
	if !s.Holds(f, gid) {
		s.t.Error("Holds says that the files are not there")
	}
	entries, err := os.ReadDir(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(entries) != len(f)+2 {
		s.t.Errorf("%d entries for %d files: %v", len(entries), len(f), entries)
	}
	for _, file := range f {
		path := filepath.Join(s.path, file.Name)
		text, err := os.ReadFile(path)
		if err != nil || string(text) != file.Content.Reveal() {
			s.t.Errorf("%s holds %q, %v; want %q", file.Name, text, err, file.Content.Reveal())
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Mode != unix.S_IFREG|uint32(file.Mode) || st.Uid != 0 || st.Gid != gid {
			s.t.Errorf("%s has mode %o, owner %d:%d, %v", file.Name, st.Mode, st.Uid, st.Gid, err)
		}
	}
}

func TestASetReplacesTheOneBefore(t *testing.T) {
	s := newScene(t, "4m")
	if _, ok := s.Current(); ok {
		t.Error("an empty directory has a set")
	}
	for _, f := range [][]File{
		files("a", "1", "b.pem", "2"),
		files("a", "1", "b.pem", "changed"),
		files("b.pem", "changed", "c", strings.Repeat("x", 100_000)),
		files("c", ""),
		{{Name: "run", Mode: 0o550, Content: secret.New("#!")}},
	} {
		s.write(f)
		s.want(f)
	}
	if s.Holds(files("run", "#!"), gid) {
		t.Error("another mode passes for the same")
	}
	if s.Holds([]File{{Name: "run", Mode: 0o550, Content: secret.New("#?")}}, gid) || s.Holds([]File{{Name: "run", Mode: 0o550, Content: secret.New("#!")}}, gid+1) {
		t.Error("another content or group passes for the same")
	}
}

func TestASetRemembersWhenItEnds(t *testing.T) {
	s := newScene(t, "4m")
	want := Set{Written: time.Unix(1_800_000_000, 0), Expires: time.Unix(1_800_003_600, 0)}
	if err := s.Write(files("a", "1"), gid, want); err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Current(); !ok || !got.Written.Equal(want.Written) || !got.Expires.Equal(want.Expires) {
		t.Errorf("got %+v, %v", got, ok)
	}
	s.write(files("a", "1"))
	if got, ok := s.Current(); !ok || !got.Expires.IsZero() {
		t.Errorf("got %+v, %v", got, ok)
	}
}

func TestWhatIsDamagedIsSeenAndMended(t *testing.T) {
	for name, damage := range map[string]func(dir, set string) error{
		"link gone":              func(dir, _ string) error { return os.Remove(dir + "/a") },
		"link to somewhere else": func(dir, _ string) error { return relink("/etc/passwd", dir+"/a") },
		"file in place of link": func(dir, _ string) error {
			return errors.Join(os.Remove(dir+"/a"), os.WriteFile(dir+"/a", []byte("1"), 0o440))
		},
		"directory in its place": func(dir, _ string) error {
			return errors.Join(os.Remove(dir+"/a"), os.Mkdir(dir+"/a", 0o700), os.WriteFile(dir+"/a/x", nil, 0o600))
		},
		"data gone":          func(dir, _ string) error { return os.Remove(dir + "/..data") },
		"data leads nowhere": func(dir, _ string) error { return relink("..1.0.aa", dir+"/..data") },
		"data leads out":     func(dir, _ string) error { return relink("/etc", dir+"/..data") },
		"file gone":          func(dir, set string) error { return os.Remove(dir + "/" + set + "/a") },
		"file changed":       func(dir, set string) error { return os.WriteFile(dir+"/"+set+"/a", []byte("2"), 0o440) },
		"mode changed":       func(dir, set string) error { return os.Chmod(dir+"/"+set+"/a", 0o444) },
		"owner changed":      func(dir, set string) error { return os.Chown(dir+"/"+set+"/a", 1000, gid) },
		"FIFO in its place": func(dir, set string) error {
			return errors.Join(os.Remove(dir+"/"+set+"/a"), unix.Mkfifo(dir+"/"+set+"/a", 0o440))
		},
		"a tree in its place": func(dir, _ string) error {
			return errors.Join(os.Remove(dir+"/a"), os.MkdirAll(dir+"/a/b/c", 0o700), os.WriteFile(dir+"/a/b/c/x", nil, 0o600), unix.Mkfifo(dir+"/a/b/x", 0o600))
		},
		"something more":  func(dir, _ string) error { return os.WriteFile(dir+"/more", nil, 0o600) },
		"half a set left": func(dir, _ string) error { return os.Mkdir(dir+"/..1.0.bb", 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "4m")
			f := files("a", "1", "b", "2")
			s.write(f)
			set, err := os.Readlink(s.path + "/..data")
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(s.path, set); err != nil {
				t.Fatal(err)
			}
			if s.Holds(f, gid) {
				t.Error("the damage was not seen")
			}
			s.write(f)
			s.want(f)
		})
	}
}

func relink(target, path string) error {
	return errors.Join(os.Remove(path), os.Symlink(target, path))
}

func TestWhatDoesNotFitLeavesTheOldSet(t *testing.T) {
	s := newScene(t, "256k")
	old := files("a", "1", "b", "2")
	s.write(old)
	if err := s.Write(files("a", "3", "b", strings.Repeat("x", 512<<10)), gid, Set{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	s.want(old)
}

func TestASetThatCannotBeIsRefused(t *testing.T) {
	many := make([]File, MaxFiles+1)
	for i := range many {
		many[i].Name = fmt.Sprint(i)
	}
	for name, f := range map[string][]File{
		"none":         nil,
		"too many":     many,
		"too large":    files("a", strings.Repeat("x", MaxBytes), "b", "y"),
		"twice":        files("a", "1", "a", "2"),
		"hidden":       files("..data", "x"),
		"up":           files("..", "x"),
		"itself":       files(".", "x"),
		"no name":      files("", "x"),
		"a path":       files("a/b", "x"),
		"a new line":   files("a\nb", "x"),
		"a long name":  files(strings.Repeat("a", 254), "x"),
		"not a letter": files("ä", "x"),
	} {
		if err := Check(f); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Check(files(".hidden", "x", "a.b_c-d", "y")); err != nil {
		t.Error(err)
	}
}

func TestWipeLeavesNothingToReadEvenInAnOpenFile(t *testing.T) {
	s := newScene(t, "4m")
	s.write(files("a", "the secret", "b", "2"))
	if err := os.WriteFile(s.path+"/stray", []byte("the secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(s.path + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := s.Wipe(); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 10)
	if n, err := open.ReadAt(content, 0); n != 10 || err != nil || string(content) != strings.Repeat("\x00", 10) {
		t.Errorf("the open file holds %q, %v", content[:n], err)
	}
	entries, err := os.ReadDir(s.path)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if err := s.Wipe(); err != nil {
		t.Errorf("a second wipe: %v", err)
	}
}

// TestAReaderNeverSeesHalfOfASet reads two files through one opened ..data while sets
// are replaced, and demands that they are of one set.
func TestAReaderNeverSeesHalfOfASet(t *testing.T) {
	s := newScene(t, "4m")
	set := func(n int) []File {
		text := strings.Repeat(fmt.Sprintf("%08d", n), 500)
		return files("certificate", text, "key", text)
	}
	s.write(set(0))
	var stop atomic.Bool
	var reads, retries, byName, missed atomic.Int64
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for !stop.Load() {
				dir, err := os.OpenRoot(s.path + "/..data")
				if errors.Is(err, os.ErrNotExist) {
					retries.Add(1) // the set that the link led to was removed on the way
					continue
				}
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				a, errA := dir.ReadFile("certificate")
				b, errB := dir.ReadFile("key")
				dir.Close()
				switch {
				case errA != nil || errB != nil:
					retries.Add(1) // the set was removed meanwhile: it is read anew
				case string(a) != string(b) || len(a) != 4000:
					t.Errorf("certificate of %d bytes starts with %.8s, key of %d with %.8s", len(a), a, len(b), b)
					return
				default:
					reads.Add(1)
				}
				// By its name a file is whole, and there: but for who was on the way
				// through ..data when it changed.
				text, err := os.ReadFile(s.path + "/key")
				for errors.Is(err, os.ErrNotExist) && !stop.Load() {
					missed.Add(1)
					text, err = os.ReadFile(s.path + "/key")
				}
				if !stop.Load() && (err != nil || len(text) != 4000) {
					t.Errorf("key has %d bytes, %v", len(text), err)
					return
				}
				byName.Add(1)
			}
		})
	}
	for n := range 2000 {
		s.write(set(n))
	}
	stop.Store(true)
	group.Wait()
	if reads.Load() < 100 {
		t.Errorf("only %d sets were read, %d times again", reads.Load(), retries.Load())
	}
	if missed.Load() > byName.Load() {
		t.Errorf("by its name the file was there %d times, and %d times not", byName.Load(), missed.Load())
	}
}
