package tree

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/sparse"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// lostAndFound is what mkfs.ext4 puts into each new filesystem.
const lostAndFound = "lost+found"

// Copy copies the tree at dir, of which s is the survey, into the empty directory
// to. did is told how many bytes of files have been dealt with, and of none once for
// each entry; it may be nil. It is
// volume.ErrInUse if the tree is not what the survey saw.
//
// After an error to has a part of a copy.
func (s *Survey) Copy(ctx context.Context, dir, to *os.File, did func(volume.Bytes)) error {
	if did == nil {
		did = func(volume.Bytes) {}
	}
	c := &copier{ctx: ctx, survey: s, top: to, did: did}
	if err := walk(ctx, dir, &c.again, c); err != nil {
		return fmt.Errorf("copy %s: %w", dir.Name(), err)
	}
	return nil
}

// copier is the visitor that copies.
type copier struct {
	ctx    context.Context
	survey *Survey
	top    *os.File
	did    func(volume.Bytes)
	again  notes // those of the survey, once more
}

func (c *copier) enter(e entry, _, in *os.File) (*os.File, error) {
	c.did(0)
	if _, err := c.survey.mark(e); err != nil {
		return nil, err
	}
	if in == nil {
		return openDir(c.top, ".")
	}
	err := unix.Mkdirat(int(in.Fd()), e.name, 0o700)
	if err != nil && !(errors.Is(err, fs.ErrExist) && e.path == lostAndFound) {
		return nil, fmt.Errorf("make the directory: %w", err)
	}
	return openDir(in, e.name)
}

// leave gives a directory its properties when nothing will be put into it any more.
func (c *copier) leave(e entry, dir, other *os.File, _ []string) error {
	return carry(e, dir, ".", other, ".")
}

func (c *copier) file(e entry, from, in *os.File) error {
	c.did(0)
	m, err := c.survey.mark(e)
	if err != nil {
		return err
	}
	if e.first != e.number {
		if err := unix.Linkat(int(c.top.Fd()), e.firstPath, int(in.Fd()), e.name, 0); err != nil {
			return fmt.Errorf("link to %q: %w", e.firstPath, err)
		}
		return nil
	}
	if e.path == lostAndFound {
		// It is not the directory that mkfs has made.
		if err := unix.Unlinkat(int(in.Fd()), e.name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make room for it: %w", err)
		}
	}
	switch e.kind() {
	case unix.S_IFREG:
		err = c.regular(e, m, from, in)
	case unix.S_IFLNK:
		err = c.symlink(e, from, in)
	default:
		if err = unix.Mknodat(int(in.Fd()), e.name, e.kind()|0o600, int(e.stat.Rdev)); err != nil {
			err = fmt.Errorf("make the node: %w", err)
		}
	}
	if err != nil {
		return err
	}
	return carry(e, from, e.name, in, e.name)
}

func (c *copier) regular(e entry, m *mark, from, in *os.File) error {
	src, err := open(from, e.name, unix.O_RDONLY)
	if err != nil {
		return gone(err)
	}
	defer src.Close()
	now := e
	if err := unix.Fstat(int(src.Fd()), &now.stat); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if stateOf(now) != m.state {
		return changed("it changed")
	}
	fd, err := unix.Openat(int(in.Fd()), e.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make the file: %w", err)
	}
	dst := os.NewFile(uintptr(fd), e.name)
	defer dst.Close()
	sum, err := sparse.Copy(c.ctx, dst, src, volume.Bytes(e.stat.Size), c.did)
	if err != nil {
		return err
	}
	m.content = short(sum)
	return nil
}

// short is enough of a digest to tell contents apart.
func short(sum sparse.Digest) (out [16]byte) {
	raw, _ := hex.DecodeString(string(sum)) // a digest is hexadecimal
	copy(out[:], raw)
	return out
}

func (c *copier) symlink(e entry, from, in *os.File) error {
	target, err := readlink(from, e.name)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(target, int(in.Fd()), e.name); err != nil {
		return fmt.Errorf("make the symbolic link: %w", err)
	}
	return nil
}

func readlink(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", fmt.Errorf("read the symbolic link: %w", gone(err))
	}
	return string(buf[:n]), nil
}
