package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/sparse"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Survey is what a tree was like when it was looked through: how much there is to
// copy, and how to know that nothing has changed since.
type Survey struct {
	// Entries is how many files there are, directories and the top included, each
	// hard link for itself.
	Entries int
	// Inodes is how many inodes a copy needs.
	Inodes int
	// Content is how much room a copy needs: blocks of 4 KiB that are no holes, and
	// a guess for directories and attributes.
	Content volume.Bytes
	// Fingerprint is that of all names, sizes, owners, modes and times, of change
	// too. It says nothing about the content itself.
	Fingerprint string

	marks []mark
	notes notes
}

// mark is how an entry is known again, by its number.
type mark struct {
	state   [16]byte // what stat(2) said
	content [16]byte // of a regular file, once it was copied
}

// Look looks through the tree at dir. It is volume.ErrInUse if something has a file
// in it open for writing, volume.ErrPrecondition if another filesystem is mounted
// below it.
func Look(ctx context.Context, dir *os.File) (*Survey, error) {
	s := &Survey{}
	l := &looker{survey: s, all: sha256.New()}
	if err := walk(ctx, dir, &s.notes, l); err != nil {
		return nil, fmt.Errorf("look through %s: %w", dir.Name(), err)
	}
	s.Fingerprint = hex.EncodeToString(l.all.Sum(nil))
	return s, nil
}

// Notes is what a person should know of the copy, in plain words.
func (s *Survey) Notes() []string { return s.notes.list() }

// looker is the visitor of a survey.
type looker struct {
	survey *Survey
	all    hash.Hash
}

func (l *looker) add(e entry) {
	state := stateOf(e)
	l.all.Write(state[:]) // a hash never fails
	l.survey.marks = append(l.survey.marks, mark{state: state})
	l.survey.Entries++
}

func (l *looker) enter(e entry, dir, _ *os.File) (*os.File, error) {
	l.add(e)
	l.survey.Inodes++
	l.survey.Content += max(sparse.Block, volume.Bytes(e.stat.Size).RoundUp(sparse.Block))
	if err := l.noteLeftOut(e, dir, "."); err != nil {
		return nil, err
	}
	return nil, l.noteFlags(e, dir)
}

func (l *looker) leave(entry, *os.File, *os.File, []string) error { return nil }

func (l *looker) file(e entry, from, _ *os.File) error {
	l.add(e)
	if e.first != e.number {
		return nil
	}
	l.survey.Inodes++
	if err := l.noteLeftOut(e, from, e.name); err != nil {
		return err
	}
	switch e.kind() {
	case unix.S_IFLNK:
		l.survey.Content += sparse.Block // if the target does not fit into the inode
	case unix.S_IFCHR, unix.S_IFBLK:
		l.survey.notes.add(noteDevice, e.path)
	case unix.S_IFREG:
		return l.regular(e, from)
	}
	return nil
}

func (l *looker) regular(e entry, from *os.File) error {
	f, err := open(from, e.name, unix.O_RDONLY)
	if err != nil {
		return gone(err)
	}
	defer f.Close()
	told, err := CheckNoWriter(f)
	if err != nil {
		return err
	}
	if !told {
		l.survey.notes.add(noteUntold, e.path)
	}
	if err := l.noteFlags(e, f); err != nil {
		return err
	}
	size := volume.Bytes(e.stat.Size).RoundUp(sparse.Block)
	const statBlock = 512 // the unit of st_blocks (stat(2))
	if volume.Bytes(e.stat.Blocks)*statBlock < volume.Bytes(e.stat.Size) {
		// Sparse, or compressed.
		if size, err = sparse.Data(f, size); err != nil {
			return err
		}
	}
	l.survey.Content += size
	return nil
}

// noteLeftOut notes the attributes that a copy will not have.
func (l *looker) noteLeftOut(e entry, dir *os.File, name string) error {
	names, err := attributeNames(dir, name)
	for _, n := range names {
		if why, left := leftOut(n); left && why != "" {
			l.survey.notes.add(why, e.path)
		}
	}
	return err
}

func (l *looker) noteFlags(e entry, f *os.File) error {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	if st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0 {
		l.survey.notes.add(noteFlags, e.path)
	}
	return nil
}

// CheckNoWriter is volume.ErrInUse if anything on this machine, in whatever
// container, has the file open for writing: an open file, a mapping, a loop device.
// It is volume.ErrPrecondition if this process may not ask. told is false where the
// filesystem cannot tell.
func CheckNoWriter(f *os.File) (told bool, err error) {
	// A read lease is refused then (fcntl(2)). It is given back at once.
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return true, fmt.Errorf("%w: something has it open for writing: stop that first", volume.ErrInUse)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return false, fmt.Errorf("%w: this driver may not ask whether something has it open for writing: give its container the capability LEASE: %w", volume.ErrPrecondition, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOLCK):
		return false, nil // there are no leases here
	case err != nil:
		return false, fmt.Errorf("ask whether something has it open for writing: %w", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return false, fmt.Errorf("give a lease back: %w", err)
	}
	return true, nil
}

// stateOf is what tells that an entry is what it was. Reading changes nothing of it.
func stateOf(e entry) [16]byte {
	st := e.stat
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %d %o %d %d %d %d %d.%d %d.%d %d",
		e.path, st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, st.Rdev))
	return [16]byte(sum[:16])
}

// mark is the mark of an entry that must be as the survey saw it.
func (s *Survey) mark(e entry) (*mark, error) {
	if e.number >= len(s.marks) || s.marks[e.number].state != stateOf(e) {
		return nil, changed("it changed")
	}
	return &s.marks[e.number], nil
}
