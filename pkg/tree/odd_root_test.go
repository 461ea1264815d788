package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

// A file that has the name of the directory which mkfs makes takes its place.
func TestAFileCalledLostAndFound(t *testing.T) {
	roottest.Require(t)
	from, to := t.TempDir(), t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(from, lostAndFound), []byte("a file"), 0o600), os.Mkdir(filepath.Join(to, lostAndFound), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := copyOf(t, from, to); err != nil {
		t.Error(err)
	}
}

func TestATimeThatCannotBeKeptNamesItsFile(t *testing.T) {
	roottest.Require(t)
	from := scratch.Btrfs(t, 1, 256*volume.MiB) // has every time
	for name, year := range map[string]int{"before": 1850, "early": 1930, "late": 2300, "after": 3000} {
		path := filepath.Join(from, name)
		when := unix.Timespec{Sec: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), Nsec: 5} // os.Chtimes ends in 2262
		if err := errors.Join(os.WriteFile(path, nil, 0o600), unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{}, when}, 0)); err != nil {
			t.Fatal(err)
		}
		_, err := copyOf(t, from, scratch.XFS(t, 300*volume.MiB))
		kept := name == "early" || name == "late"
		if kept && err != nil || !kept && (!errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), fmt.Sprint(year))) {
			t.Errorf("%d: %v", year, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// The notes are all there before anything is copied: an import that was made before
// says the same as the first.
func TestTheSurveyHasAllNotes(t *testing.T) {
	roottest.Require(t)
	from := scratch.Btrfs(t, 1, 256*volume.MiB)
	if err := unix.Setxattr(from, "btrfs.compression", []byte("zstd"), 0); err != nil {
		t.Fatal(err)
	}
	s, err := Look(t.Context(), open1(t, from))
	if err != nil {
		t.Fatal(err)
	}
	before := strings.Join(s.Notes(), "\n")
	if !strings.Contains(before, string(noteForeign)) {
		t.Errorf("notes: %q", before)
	}
	again, err := copyOf(t, from, t.TempDir())
	if err != nil || strings.Join(again.Notes(), "\n") != before {
		t.Errorf("after the copy %q (%v), before %q", again.Notes(), err, before)
	}
}

// What is known of files with several names is forgotten with their last one.
func TestNamesThatWereMetAreForgotten(t *testing.T) {
	from := t.TempDir()
	for i := range 10 {
		path := filepath.Join(from, fmt.Sprint(i))
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Link(path, path+"-again"), os.Link(path, path+"-and-again")); err != nil {
			t.Fatal(err)
		}
	}
	w := &walker{links: map[inode]*name{}}
	for i := range 10 {
		for n, suffix := range []string{"", "-again", "-and-again"} {
			e := entry{path: fmt.Sprint(i, suffix)}
			if err := unix.Lstat(filepath.Join(from, fmt.Sprint(i)+suffix), &e.stat); err != nil {
				t.Fatal(err)
			}
			if got := w.add(e); got.first != 3*i || got.number != 3*i+n {
				t.Errorf("%s is number %d, first %d", e.path, got.number, got.first)
			}
		}
		if len(w.links) > 0 {
			t.Errorf("%d files are remembered", len(w.links))
		}
	}
}
