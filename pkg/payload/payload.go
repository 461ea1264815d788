// Package payload is a set of small files of which a reader sees all or none: those of
// a volume whose content comes from somewhere else and is replaced while it is used.
//
// It promises what Kubernetes promises for Secret volumes, in the same way: the files
// are in a directory of their own; a link, ..data, leads to it, and every name that a
// reader knows is a link through that one. A new set is written beside the old one and
// becomes the current one with one rename. So a file is never half written, and two
// files read through one opened ..data are of one set. What is damaged is found and
// made anew by the next Write.
//
// It writes to the directory that it is given and nowhere else, follows no link, and
// makes no mount: which filesystem that is, and who sees it, is the caller's.
package payload

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/secret"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	// MaxFiles is how many files one set may have.
	MaxFiles = 64
	// MaxBytes is how many bytes they may have in all.
	MaxBytes = 1 << 20

	current = "..data"     // the link to the directory of the current set
	next    = "..data_tmp" // the same, before its rename
	hidden  = ".."         // what every name starts with that is not a reader's

	// dirMode lets everybody through who knows a name, and the group look around.
	dirMode = 0o751
)

// File is one file of a set.
type File struct {
	Name    string
	Mode    fs.FileMode // permission bits
	Content secret.Text
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,253}$`)

// CheckName is volume.ErrInvalid for a name that no file of a set can have.
func CheckName(name string) error {
	if !fileName.MatchString(name) || strings.HasPrefix(name, hidden) || name == "." {
		return fmt.Errorf("%w: file name %q: want 1 to 253 of [A-Za-z0-9._-], and not .. at its beginning", volume.ErrInvalid, name)
	}
	return nil
}

// Check is volume.ErrInvalid for a set that is too large, empty, or has a name twice
// or one that cannot be.
func Check(files []File) error {
	if len(files) == 0 || len(files) > MaxFiles {
		return fmt.Errorf("%w: %d files: want 1 to %d", volume.ErrInvalid, len(files), MaxFiles)
	}
	seen, size := map[string]bool{}, 0
	for _, f := range files {
		if err := CheckName(f.Name); err != nil {
			return err
		}
		if seen[f.Name] {
			return fmt.Errorf("%w: file %q is there twice", volume.ErrInvalid, f.Name)
		}
		seen[f.Name] = true
		size += f.Content.Len()
	}
	if size > MaxBytes {
		return fmt.Errorf("%w: the files have %d bytes in all, the limit is %d", volume.ErrInvalid, size, MaxBytes)
	}
	return nil
}

// Dir is the directory of a payload, open for reading. Who uses it closes the file.
type Dir struct {
	file *os.File
}

// In is the payload in a directory.
func In(dir *os.File) Dir { return Dir{dir} }

func (d Dir) fd() int { return int(d.file.Fd()) }

// Set says when a set was written, and when what is in it ends to be valid; zero if it
// does not. It is kept with the set, to the second, and known as long as the set is.
type Set struct {
	Written, Expires time.Time
}

// name is that of the directory of the set, which nothing else has.
func (s Set) name() (string, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", fmt.Errorf("make a name: %w", err)
	}
	expires := int64(0)
	if !s.Expires.IsZero() {
		expires = s.Expires.Unix()
	}
	return fmt.Sprintf("%s%d.%d.%s", hidden, s.Written.Unix(), expires, hex.EncodeToString(random[:])), nil
}

func setOf(name string) (Set, bool) {
	parts := strings.Split(strings.TrimPrefix(name, hidden), ".")
	if len(parts) != 3 || !strings.HasPrefix(name, hidden) {
		return Set{}, false
	}
	written, err1 := strconv.ParseInt(parts[0], 10, 64)
	expires, err2 := strconv.ParseInt(parts[1], 10, 64)
	if err1 != nil || err2 != nil {
		return Set{}, false
	}
	s := Set{Written: time.Unix(written, 0)}
	if expires != 0 {
		s.Expires = time.Unix(expires, 0)
	}
	return s, true
}

// Current is the set that readers see; ok is false if there is none that works.
func (d Dir) Current() (s Set, ok bool) {
	name, err := d.readLink(current)
	if err != nil {
		return Set{}, false
	}
	s, ok = setOf(name)
	return s, ok && d.isDir(name)
}

// Emptied says whether the current set has files and all of them are empty.
func (d Dir) Emptied() bool {
	set, err := d.readLink(current)
	if err != nil || !d.isDir(set) {
		return false
	}
	names, err := namesIn(d.fd(), set, maxEntries)
	if err != nil {
		return false
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(d.fd(), set+"/"+name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > 0 {
			return false
		}
	}
	return len(names) > 0
}

// Holds says whether what readers see is exactly this: the names, the content and the
// modes.
func (d Dir) Holds(files []File, gid int) bool {
	name, err := d.readLink(current)
	if err != nil || !d.isDir(name) {
		return false
	}
	for _, f := range files {
		target, err := d.readLink(f.Name)
		if err != nil || target != current+"/"+f.Name || !d.holdsFile(name+"/"+f.Name, f, gid) {
			return false
		}
	}
	// The links, ..data, and the directory of the set.
	want := len(files) + 2
	entries, err := namesIn(d.fd(), ".", want+1)
	return err == nil && len(entries) == want
}

func (d Dir) holdsFile(path string, f File, gid int) bool {
	fd, err := openBeneath(d.fd(), path, unix.O_RDONLY)
	if err != nil {
		return false
	}
	file := os.NewFile(uintptr(fd), f.Name)
	defer file.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode != unix.S_IFREG|uint32(f.Mode.Perm()) || st.Uid != 0 || int(st.Gid) != gid || st.Size != int64(f.Content.Len()) {
		return false
	}
	content := make([]byte, st.Size)
	n, err := file.ReadAt(content, 0)
	return (err == nil || n == len(content)) && secret.New(string(content)).Equal(f.Content)
}

// openBeneath opens what is in a directory. It waits for nobody: not for who writes to
// a FIFO, and not for who has a lease on a file.
func openBeneath(dir int, path string, flags uint64) (int, error) {
	if flags&(unix.O_PATH|unix.O_DIRECTORY) == 0 {
		flags |= unix.O_NONBLOCK | unix.O_NOCTTY
	}
	return unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// ErrLeft says that a set is the current one, and what was there before could not be
// removed: somebody has made that so who can write to the directory.
var ErrLeft = errors.New("the files are in place, but not all that was there before could be removed")

// Write makes files the current set, with gid as the group of them and of the
// directory. Until it has returned readers see the old set or the new one. After
// ErrLeft they see the new one, after any other error the old one.
func (d Dir) Write(files []File, gid int, s Set) error {
	if err := Check(files); err != nil {
		return err
	}
	name, err := s.name()
	if err != nil {
		return fmt.Errorf("write %d files: %w", len(files), err)
	}
	var made []string
	if err = d.writeSet(name, files, gid); err == nil {
		made, err = d.linkAll(files)
	}
	if err == nil {
		err = d.link(name, current, next)
	}
	if err != nil {
		return fmt.Errorf("write %d files: %w", len(files), errors.Join(err, d.remove(name), d.unlinkIdle(made)))
	}
	keep := map[string]bool{current: true, name: true}
	for _, f := range files {
		keep[f.Name] = true
	}
	if err := d.clear(keep); err != nil {
		return fmt.Errorf("%w: %w", ErrLeft, err)
	}
	return nil
}

// linkAll makes the link of every file that has none, and returns whose it made. Those
// of files that only the next set has lead nowhere until it is the current one.
func (d Dir) linkAll(files []File) (made []string, err error) {
	for _, f := range files {
		if target, err := d.readLink(f.Name); err == nil && target == current+"/"+f.Name {
			continue
		}
		if err := d.link(current+"/"+f.Name, f.Name, next); err != nil {
			return made, err
		}
		made = append(made, f.Name)
	}
	return made, nil
}

// unlinkIdle removes those links that lead nowhere.
func (d Dir) unlinkIdle(names []string) error {
	var errs []error
	for _, name := range names {
		fd, err := unix.Openat2(d.fd(), name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV})
		if err == nil {
			unix.Close(fd)
			continue
		}
		errs = append(errs, d.remove(name))
	}
	return errors.Join(errs...)
}

// writeSet fills a directory that nobody sees yet.
func (d Dir) writeSet(name string, files []File, gid int) error {
	if err := unix.Mkdirat(d.fd(), name, 0o700); err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	dir, err := openBeneath(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open the new directory: %w", err)
	}
	defer unix.Close(dir)
	for _, f := range files {
		if err := writeFile(dir, f, gid); err != nil {
			return fmt.Errorf("file %s: %w", f.Name, err)
		}
	}
	if err := errors.Join(unix.Fchown(dir, 0, gid), unix.Fchmod(dir, dirMode)); err != nil {
		return fmt.Errorf("set the rights of the new directory: %w", err)
	}
	return nil
}

func writeFile(dir int, f File, gid int) error {
	fd, err := unix.Openat(dir, f.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), f.Name)
	_, err = file.WriteString(f.Content.Reveal())
	return errors.Join(err, unix.Fchown(fd, 0, gid), unix.Fchmod(fd, uint32(f.Mode.Perm())), file.Close())
}

// link makes name a link to target, in place of whatever was there, with one rename.
func (d Dir) link(target, name, temporary string) error {
	if err := d.remove(temporary); err != nil {
		return err
	}
	if err := unix.Symlinkat(target, d.fd(), temporary); err != nil {
		return fmt.Errorf("make a link: %w", err)
	}
	err := unix.Renameat(d.fd(), temporary, d.fd(), name)
	if errors.Is(err, unix.EISDIR) {
		// Somebody put a directory there.
		if err := d.remove(name); err != nil {
			return err
		}
		err = unix.Renameat(d.fd(), temporary, d.fd(), name)
	}
	if err != nil {
		return fmt.Errorf("put link %s in place: %w", name, err)
	}
	return nil
}

// clear removes everything but what is kept.
func (d Dir) clear(keep map[string]bool) error {
	entries, err := namesIn(d.fd(), ".", maxEntries)
	if err != nil {
		return err
	}
	var first error
	for _, name := range entries {
		if keep[name] {
			continue
		}
		if err := d.remove(name); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// namesIn are the names in a directory, and no more than most of them.
func namesIn(dir int, name string, most int) ([]string, error) {
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	names, err := file.Readdirnames(most)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list %s: %w", name, err)
	}
	return names, nil
}

func (d Dir) isDir(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func (d Dir) readLink(name string) (string, error) {
	buf := make([]byte, 512)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	if err != nil {
		return "", fmt.Errorf("read link %s: %w", name, err)
	}
	return string(buf[:n]), nil
}
