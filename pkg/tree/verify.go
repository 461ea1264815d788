package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/sparse"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Verify compares the tree at dir, which s is the survey of and was copied, with its
// copy. It is volume.ErrInUse if the tree has changed since the survey, and
// volume.ErrDataLoss if the copy is not the same. To read what is on the disk, not
// what is in memory, the caller mounts the copy anew. did is told how many bytes of
// files were compared; it may be nil.
func (s *Survey) Verify(ctx context.Context, dir, copied *os.File, did func(volume.Bytes)) error {
	v := &verifier{ctx: ctx, survey: s, top: copied, did: did, inodes: map[int]uint64{}}
	if err := walk(ctx, dir, &v.again, v); err != nil {
		return fmt.Errorf("compare %s with its copy: %w", dir.Name(), err)
	}
	return nil
}

// verifier is the visitor that compares.
type verifier struct {
	ctx    context.Context
	survey *Survey
	top    *os.File
	did    func(volume.Bytes)
	again  notes          // those of the survey, once more
	inodes map[int]uint64 // of copies with several names, by the number of the first
}

func (v *verifier) enter(e entry, dir, in *os.File) (*os.File, error) {
	if _, err := v.survey.mark(e); err != nil {
		return nil, err
	}
	other := v.top
	name := "."
	if in != nil {
		other, name = in, e.name
	}
	twin, err := openDir(other, name)
	if err != nil {
		return nil, fmt.Errorf("open the copy: %w", missing(err))
	}
	if err := v.sameDir(e, dir, twin); err != nil {
		return nil, errors.Join(err, twin.Close())
	}
	return twin, nil
}

func (v *verifier) sameDir(e entry, dir, twin *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(twin.Fd()), &st); err != nil {
		return fmt.Errorf("stat the copy: %w", err)
	}
	if err := sameProperties(e.stat, st); err != nil {
		return err
	}
	return sameAttributes(dir, ".", twin, ".")
}

// leave compares what is in a directory.
func (v *verifier) leave(e entry, _, other *os.File, names []string) error {
	have, err := other.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list the copy: %w", err)
	}
	slices.Sort(have)
	if e.path == "." && !slices.Contains(names, lostAndFound) {
		have = slices.DeleteFunc(have, func(n string) bool { return n == lostAndFound })
	}
	if !slices.Equal(have, names) {
		return differs(fmt.Sprintf("%d names", len(have)), fmt.Sprintf("%d", len(names)))
	}
	return nil
}

func (v *verifier) file(e entry, from, in *os.File) error {
	m, err := v.survey.mark(e)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(in.Fd()), e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat the copy: %w", missing(err))
	}
	if e.first != e.number {
		if v.inodes[e.first] != st.Ino {
			return differs("a file of its own", fmt.Sprintf("another name of %q", e.firstPath))
		}
		return nil
	}
	if e.stat.Nlink > 1 {
		v.inodes[e.number] = st.Ino
	}
	if err := sameProperties(e.stat, st); err != nil {
		return err
	}
	if err := sameAttributes(from, e.name, in, e.name); err != nil {
		return err
	}
	switch e.kind() {
	case unix.S_IFREG:
		return v.sameContent(e, m, in)
	case unix.S_IFLNK:
		return sameTarget(e, from, in)
	}
	return nil
}

func (v *verifier) sameContent(e entry, m *mark, in *os.File) error {
	f, err := open(in, e.name, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open the copy: %w", err)
	}
	defer f.Close()
	sum, err := sparse.Sum(v.ctx, f, volume.Bytes(e.stat.Size), v.did)
	if err != nil {
		return err
	}
	if have := short(sum); have != m.content {
		return differs(fmt.Sprintf("content %x", have), fmt.Sprintf("%x", m.content))
	}
	return nil
}

func sameTarget(e entry, from, in *os.File) error {
	want, err := readlink(from, e.name)
	if err != nil {
		return err
	}
	have, err := readlink(in, e.name)
	if err != nil {
		return err
	}
	if have != want {
		return differs(fmt.Sprintf("target %q", have), fmt.Sprintf("%q", want))
	}
	return nil
}

// sameProperties compares what stat(2) says, but for the time of access.
func sameProperties(want, have unix.Stat_t) error {
	switch {
	case have.Mode != want.Mode:
		return differs(fmt.Sprintf("mode %o", have.Mode), fmt.Sprintf("%o", want.Mode))
	case have.Uid != want.Uid || have.Gid != want.Gid:
		return differs(fmt.Sprintf("owner %d:%d", have.Uid, have.Gid), fmt.Sprintf("%d:%d", want.Uid, want.Gid))
	case have.Mtim != want.Mtim:
		return differs(fmt.Sprintf("time of modification %d.%09d", have.Mtim.Sec, have.Mtim.Nsec), fmt.Sprintf("%d.%09d", want.Mtim.Sec, want.Mtim.Nsec))
	case have.Rdev != want.Rdev:
		return differs(fmt.Sprintf("device %x", have.Rdev), fmt.Sprintf("%x", want.Rdev))
	case want.Mode&unix.S_IFMT == unix.S_IFREG && have.Size != want.Size:
		return differs(fmt.Sprintf("size %d", have.Size), fmt.Sprintf("%d", want.Size))
	}
	return nil
}

func sameAttributes(from *os.File, fromName string, in *os.File, name string) error {
	want, err := attributes(from, fromName)
	if err != nil {
		return err
	}
	have, err := attributes(in, name)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(have, want, func(a, b attribute) bool { return a.name == b.name && bytes.Equal(a.value, b.value) }) {
		return differs("extended attributes "+namesOf(have), namesOf(want))
	}
	return nil
}

func namesOf(all []attribute) string {
	names := []string{}
	for _, a := range all {
		names = append(names, a.name)
	}
	return fmt.Sprintf("%q", names)
}

func missing(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: it is missing: %w", volume.ErrDataLoss, err)
	}
	return err
}

// differs is the error for a copy that is not the same.
func differs(have, want string) error {
	return fmt.Errorf("%w: the copy has %s, not %s", volume.ErrDataLoss, have, want)
}
