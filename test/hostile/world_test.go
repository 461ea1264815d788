package hostile

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// observe describes everything that an attack must not touch, a line per thing:
// the canary tree with its times and content, kubelet's directory and the pool
// with what is in them, mounts, loop devices.
func observe(box *harness.Box) ([]string, error) {
	var lines []string
	add := func(more []string, err error) error {
		lines = append(lines, more...)
		return err
	}
	err := errors.Join(
		add(tree(canaryDir(box), exactly)),
		add(tree(box.Kubelet(), roughly)),
		add(tree(box.Pools(), roughly)),
		add(tree(box.State(), roughly)),
		add(mounts()),
		add(loops(box.Dir)),
	)
	slices.Sort(lines)
	return lines, err
}

// tree describes a directory. What is mounted in it is described too, except for
// the content of volumes, which the witnesses check.
func tree(dir string, describe func(path string, st *unix.Stat_t) (string, error)) ([]string, error) {
	var lines []string
	var home unix.Stat_t
	if err := unix.Lstat(dir, &home); err != nil {
		return nil, err
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the driver's own housekeeping
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return err
		}
		what, err := describe(path, &st)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		lines = append(lines, fmt.Sprintf("%s: %s", path, what))
		if d.IsDir() && st.Dev != home.Dev && unix.Major(st.Dev) == loopMajor {
			return fs.SkipDir // a volume; the pool's device has an anonymous number
		}
		return nil
	})
	return lines, err
}

// loopMajor is of Documentation/admin-guide/devices.txt.
const loopMajor = 7

// exactly changes with every change of any kind.
func exactly(path string, st *unix.Stat_t) (string, error) {
	what, err := roughly(path, st)
	return fmt.Sprintf("%s, inode %d, %d links, owner %d:%d, written %v, changed %v", what, st.Ino, st.Nlink, st.Uid, st.Gid, st.Mtim, st.Ctim), err
}

// roughly changes if something is made, removed, replaced or written.
func roughly(path string, st *unix.Stat_t) (string, error) {
	what := fmt.Sprintf("mode %o", st.Mode)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		return what + " to " + to, err
	case unix.S_IFREG:
		content, err := fingerprint(path, st.Size)
		return fmt.Sprintf("%s, %d bytes %s", what, st.Size, content), err
	case unix.S_IFBLK, unix.S_IFCHR:
		return fmt.Sprintf("%s, device %d:%d", what, unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
	}
	return what, nil
}

// fingerprint is the hash of a file that is not the image of a volume or a pool.
func fingerprint(path string, size int64) (string, error) {
	if size > 1<<20 {
		return "", nil
	}
	content, err := os.ReadFile(path)
	return fmt.Sprintf("%x", sha256.Sum256(content))[:12], err
}

// mounts is read without the packages under test. A mount that was replaced by
// an equal one has another id.
func mounts() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	var lines []string
	for line := range strings.Lines(string(text)) {
		lines = append(lines, "mount "+strings.TrimSpace(line))
	}
	return lines, err
}

// loops are the loop devices below dir and those that are stacked on them.
func loops(dir string) ([]string, error) {
	all, err := loop.List()
	ours := map[string]bool{}
	var lines []string
	for range 2 { // the second round finds what is stacked on the first
		lines = nil
		for _, l := range all {
			if strings.HasPrefix(l.BackingPath, dir+"/") || ours[l.BackingPath] {
				ours[fmt.Sprintf("/dev/loop%d", l.Index)] = true
				lines = append(lines, fmt.Sprintf("loop%d on %s, tag %s, %d bytes, read-only %v", l.Index, l.BackingPath, l.Tag, l.Size, l.ReadOnly))
			}
		}
	}
	return lines, err
}

// settleTime is how long the driver and the kernel get for what they do after
// the answer: a loop is detached, and an entry of the trash goes when btrfs has
// freed its space, at the latest after its next commit (30 s).
const settleTime = time.Minute

// demandUnchanged fails the test if the box is not what it was.
func demandUnchanged(t *testing.T, box *harness.Box, before []string, after string) {
	t.Helper()
	var now []string
	for end := time.Now().Add(settleTime); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if now, err = observe(box); err != nil {
			t.Fatalf("look at the box after %s: %v", after, err)
		}
		if slices.Equal(before, now) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %s something is not as it was:\nbefore: %s\nnow: %s", after, strings.Join(missing(before, now), "\n\t"), strings.Join(missing(now, before), "\n\t"))
		}
	}
}

// missing are the lines of a that are not in b.
func missing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
}
