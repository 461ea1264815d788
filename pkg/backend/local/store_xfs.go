package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/xfs"
)

// xfsStore keeps each image as a file in a plain directory; a copy is a file that
// shares its extents (FICLONE). The image of a snapshot is immutable, which stops
// root too.
type xfsStore struct {
	pool *os.File // the pool's directory
	uuid string
}

// newXFSStore checks that an open directory is on an XFS that can hold a pool.
func newXFSStore(dir *os.File) (*xfsStore, error) {
	g, err := xfs.ReadGeometry(dir)
	if err != nil {
		return nil, err
	}
	if !g.Reflink {
		return nil, fmt.Errorf("%w: the XFS of %s was made without reflink, so a snapshot would be a whole copy; it cannot be added later: make the filesystem anew with mkfs.xfs -m reflink=1, or use btrfs", volume.ErrPrecondition, dir.Name())
	}
	return &xfsStore{pool: dir, uuid: g.UUID}, nil
}

func (s *xfsStore) identity() (string, string) { return FilesystemXFS, s.uuid }

func (s *xfsStore) createImage(dir *os.File) (*os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), dataDir, 0o700); err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: dir.Name() + "/" + dataDir, Err: err}
	}
	f, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	if err := xfs.SetCowExtSize(f, cowExtSize); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// copyData does not sync the copy: nothing of it is in the page cache, and build
// commits before it renames. A crash in the middle leaves a part of a copy, in
// .staging.
func (s *xfsStore) copyData(from, to *os.File, readOnly bool) error {
	src, dst, err := s.openCopy(from, to)
	if err != nil {
		return err
	}
	defer src.Close()
	defer dst.Close()
	if err := xfs.Clone(src, dst); err != nil {
		return err
	}
	was, err := src.Stat()
	if err != nil {
		return fmt.Errorf("stat the image: %w", err)
	}
	is, err := dst.Stat()
	if err != nil {
		return fmt.Errorf("stat the copy of the image: %w", err)
	}
	if is.Size() != was.Size() {
		return fmt.Errorf("%w: the copy of %s has %d bytes, the image %d", volume.ErrDataLoss, src.Name(), is.Size(), was.Size())
	}
	if !readOnly {
		return nil
	}
	if err := dst.Chmod(0o400); err != nil {
		return fmt.Errorf("make the snapshot's image read-only: %w", err)
	}
	return xfs.SetImmutable(dst, true)
}

// openCopy opens the image of from, and the one that to has or gets for a copy of
// it.
func (s *xfsStore) openCopy(from, to *os.File) (src, dst *os.File, err error) {
	src, err = openAt(from, dataDir+"/"+imageFile, unix.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	dst, err = openAt(to, dataDir+"/"+imageFile, unix.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		dst, err = s.createImage(to)
		if err == nil {
			err = xfs.CopyAttributes(src, dst)
		}
	}
	if err != nil {
		err = errors.Join(err, src.Close())
		if dst != nil {
			err = errors.Join(err, dst.Close())
		}
		return nil, nil, err
	}
	return src, dst, nil
}

// copied looks for a shared extent, if there are few to look at.
func (s *xfsStore) copied(dir *os.File) (bool, error) {
	img, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer img.Close()
	const few = 1000
	if n, err := xfs.Extents(img); err != nil || n > few {
		return true, err
	}
	shared := errors.New("shared")
	err = xfs.WalkExtents(img, func(e xfs.Extent) error {
		if e.Shared {
			return shared
		}
		return nil
	})
	if errors.Is(err, shared) {
		return true, nil
	}
	return false, err
}

func (s *xfsStore) unshares() bool { return true }

// dataIn: the tree of the extents counts too, 33 bytes for each in nodes that are
// half full. That is 0.8 % when every block is an extent of its own.
func (s *xfsStore) dataIn(allocated volume.Bytes) volume.Bytes { return allocated - allocated/64 }

// usage counts as in place what no other file shares. The extents are those that
// a copy has to go through, which are fewer than what the walk returns: it also
// divides where sharing begins and ends.
func (s *xfsStore) usage(dir *os.File) (usage, error) {
	img, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDONLY)
	if err != nil {
		return usage{}, err
	}
	defer img.Close()
	var u usage
	err = xfs.WalkExtents(img, func(e xfs.Extent) error {
		u.Mapped += volume.Bytes(e.Length)
		if !e.Shared {
			u.InPlace += volume.Bytes(e.Length)
		}
		return nil
	})
	if err == nil {
		u.Extents, err = xfs.Extents(img)
	}
	return u, err
}

// dataUUID is inode number and generation of the image, which no other file of
// the filesystem ever has. An attribute of our own would not do: what copies files
// copies attributes.
func (s *xfsStore) dataUUID(dir *os.File) (string, error) {
	img, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer img.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", img.Name(), err)
	}
	generation, err := xfs.Generation(img)
	return fmt.Sprintf("inode-%d-%08x", st.Ino, generation), err
}

// removed is the ticket for whatever was removed: waitFreed waits for everything.
const removed = 1

func (s *xfsStore) removeData(dir *os.File) (uint64, error) {
	data, err := openAt(dir, dataDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer data.Close()
	img, err := openAt(data, imageFile, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // removeAll takes the directory
	}
	if err != nil {
		return 0, err
	}
	err = xfs.SetImmutable(img, false)
	if cerr := img.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, err
	}
	if err := unix.Unlinkat(int(data.Fd()), imageFile, 0); err != nil {
		return 0, &fs.PathError{Op: "unlink", Path: data.Name() + "/" + imageFile, Err: err}
	}
	return removed, nil
}

// waitFreed waits for the kernel's background work, whose call cannot be
// interrupted: when ctx ends it goes on without us.
func (s *xfsStore) waitFreed(ctx context.Context, _ []uint64) error {
	// A descriptor of its own, for the pool may be closed meanwhile.
	own, err := openAt(s.pool, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- errors.Join(xfs.FinishRemovals(own), own.Close()) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the space of a deleted volume: %w", context.Cause(ctx))
	}
}

// commit is one of the log: images are written by direct I/O, so there is little
// else.
func (s *xfsStore) commit() error {
	if err := unix.Syncfs(int(s.pool.Fd())); err != nil {
		return fmt.Errorf("commit the filesystem of %s: %w", s.pool.Name(), err)
	}
	return nil
}
