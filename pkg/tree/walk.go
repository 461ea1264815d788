package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// entry is one file of a tree as a walk meets it.
type entry struct {
	path   string // from the top, which is "."
	name   string // in its directory
	stat   unix.Stat_t
	number int // in the order of the walk, which is that of the names
	// first is the number of the entry that is the same file under another name, and
	// firstPath its path; number and path if there is none before.
	first     int
	firstPath string
}

func (e entry) kind() uint32 { return e.stat.Mode & unix.S_IFMT }

// visitor is told of each entry of a tree. from is the directory that it is in, in
// the tree that is walked; in stands for that directory elsewhere, nil if nowhere.
type visitor interface {
	// enter is called for a directory, which is open as dir, before what is in it.
	// What it returns stands for dir; the walk closes it.
	enter(e entry, dir, in *os.File) (*os.File, error)
	// leave is called after what is in it, with the names of all that was met there.
	leave(e entry, dir, other *os.File, names []string) error
	// file is called for all that is no directory.
	file(e entry, from, in *os.File) error
}

type inode struct{ dev, ino uint64 }

// name is the first name of a file that has several.
type name struct {
	number int
	path   string
	left   uint64 // names that were not met yet
}

// walker goes through a tree once.
type walker struct {
	ctx   context.Context
	visit visitor
	notes *notes
	links map[inode]*name // of which not all names were met
	count int
}

// walk goes through the tree at dir, in the order of the names.
func walk(ctx context.Context, dir *os.File, notes *notes, visit visitor) error {
	// An open file of its own, for the position in it is the caller's.
	top, err := openDir(dir, ".")
	if err != nil {
		return fmt.Errorf("open %s: %w", dir.Name(), err)
	}
	defer top.Close()
	w := &walker{ctx: ctx, visit: visit, notes: notes, links: map[inode]*name{}}
	e := entry{path: ".", name: "."}
	if err := unix.Fstat(int(top.Fd()), &e.stat); err != nil {
		return fmt.Errorf("stat %s: %w", dir.Name(), err)
	}
	return w.dir(w.add(e), top, nil)
}

// add numbers an entry and finds out whether it is another name of an earlier one.
func (w *walker) add(e entry) entry {
	e.number, e.first, e.firstPath = w.count, w.count, e.path
	w.count++
	if e.kind() == unix.S_IFDIR || e.stat.Nlink < 2 {
		return e
	}
	key := inode{e.stat.Dev, e.stat.Ino}
	if before, ok := w.links[key]; ok {
		e.first, e.firstPath = before.number, before.path
		if before.left--; before.left == 0 {
			delete(w.links, key)
		}
		return e
	}
	w.links[key] = &name{e.number, e.path, uint64(e.stat.Nlink) - 1}
	return e
}

func (w *walker) dir(e entry, dir, in *os.File) error {
	other, err := w.visit.enter(e, dir, in)
	if err != nil {
		return at(e.path, err)
	}
	if other != nil {
		defer other.Close()
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return at(e.path, err)
	}
	slices.Sort(names)
	var met []string
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return fmt.Errorf("walk through %s: %w", e.path, context.Cause(w.ctx))
		}
		child := entry{path: join(e.path, name), name: name}
		ok, err := w.child(child, dir, other)
		if err != nil {
			return err
		}
		if ok {
			met = append(met, name)
		}
	}
	if err := w.visit.leave(e, dir, other, met); err != nil {
		return at(e.path, err)
	}
	return nil
}

// child visits what is in a directory. ok is false for what is left out.
func (w *walker) child(e entry, from, in *os.File) (ok bool, err error) {
	if err := unix.Fstatat(int(from.Fd()), e.name, &e.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, at(e.path, gone(err))
	}
	switch e.kind() {
	case unix.S_IFSOCK:
		w.notes.add(noteSocket, e.path)
		return false, nil
	case unix.S_IFDIR:
		dir, err := openDir(from, e.name)
		if err != nil {
			return false, at(e.path, gone(err))
		}
		defer dir.Close()
		return true, w.dir(w.add(e), dir, in)
	}
	if err := w.visit.file(w.add(e), from, in); err != nil {
		return false, at(e.path, err)
	}
	return true, nil
}

// openDir opens a directory in dir, for reading.
func openDir(dir *os.File, name string) (*os.File, error) {
	return open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

// open opens what is called name in dir, and nothing that is mounted there or that a
// symbolic link leads to. Reading it leaves its time of access alone where that is
// allowed.
func open(dir *os.File, name string, flags int) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOATIME),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, &how)
	if errors.Is(err, unix.EPERM) {
		how.Flags &^= unix.O_NOATIME
		fd, err = unix.Openat2(int(dir.Fd()), name, &how)
	}
	if errors.Is(err, unix.EXDEV) {
		return nil, fmt.Errorf("%w: another filesystem is mounted there: copy it by itself, or unmount it", volume.ErrPrecondition)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// at says where in the tree something went wrong.
func at(path string, err error) error {
	var where *Error
	if errors.As(err, &where) {
		return err // it says so already
	}
	return &Error{Path: path, Err: err}
}

// Error is what went wrong at a place of a tree.
type Error struct {
	// Path is where, from the top.
	Path string
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("%q: %v", e.Path, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// gone gives the disappearance of what was there an instant ago its meaning.
func gone(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return changed("it went away")
	}
	return err
}

// changed is the error for a source that does not keep still.
func changed(what string) error {
	return fmt.Errorf("%w: %s while it was copied: stop what writes there, and copy it again", volume.ErrInUse, what)
}
