package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// btrfsStore keeps each image NOCOW in a subvolume of its own.
type btrfsStore struct {
	pool *os.File // the pool's directory
	uuid string
}

// newBtrfsStore checks that an open directory is on a btrfs that can hold a
// pool.
func newBtrfsStore(dir *os.File) (*btrfsStore, error) {
	uuid, err := btrfs.FilesystemUUID(dir)
	if err != nil {
		return nil, err
	}
	s := &btrfsStore{pool: dir, uuid: uuid}
	return s, s.checkProfile()
}

// checkProfile refuses data profiles with several copies on several devices: a
// NOCOW file has no checksums, so a stale copy would be served as good.
func (s *btrfsStore) checkProfile() error {
	entries, err := os.ReadDir(s.sysfs("allocation/data"))
	if err != nil {
		return fmt.Errorf("read the data profile of the pool: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "raid") {
			return fmt.Errorf("%w: the pool's btrfs has the data profile %s, which cannot tell a stale copy of an image from the good one; use the profile single on md or hardware RAID (btrfs balance start -dconvert=single)", volume.ErrPrecondition, e.Name())
		}
	}
	return nil
}

func (s *btrfsStore) sysfs(name string) string {
	return filepath.Join("/sys/fs/btrfs", s.uuid, name)
}

func (s *btrfsStore) createImage(dir *os.File) (*os.File, error) {
	if err := btrfs.CreateSubvolume(dir, dataDir); err != nil {
		return nil, err
	}
	f, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	if err := btrfs.SetNoCow(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// prepareCopy has nothing to do: a snapshot takes the same time for any volume.
func (s *btrfsStore) prepareCopy(context.Context, *os.File, *os.File, func() error) error { return nil }

// unshares: see btrfs.LastSnapshot.
func (s *btrfsStore) unshares() bool { return false }

func (s *btrfsStore) copyData(from, to *os.File, readOnly bool) error {
	src, err := openAt(from, dataDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer src.Close()
	return btrfs.Snapshot(src, to, dataDir, readOnly)
}

func (s *btrfsStore) copied(dir *os.File) (bool, error) {
	data, err := openAt(dir, dataDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false, err
	}
	defer data.Close()
	id, err := btrfs.SubvolumeID(data)
	if err != nil {
		return false, err
	}
	last, err := btrfs.LastSnapshot(s.pool, id)
	return last != 0, err
}

func (s *btrfsStore) dataIn(allocated volume.Bytes) volume.Bytes { return allocated }

// usage counts as in place what is newer than the last snapshot: only that does
// the kernel overwrite where it lies (see btrfs.LastSnapshot).
func (s *btrfsStore) usage(dir *os.File) (usage, error) {
	data, err := openAt(dir, dataDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return usage{}, err
	}
	defer data.Close()
	id, err := btrfs.SubvolumeID(data)
	if err != nil {
		return usage{}, err
	}
	img, err := openAt(data, imageFile, unix.O_RDONLY)
	if err != nil {
		return usage{}, err
	}
	defer img.Close()
	// Before the walk: a snapshot that comes in between makes the answer too large,
	// and whoever asked must know of it (see pool.measure).
	last, err := btrfs.LastSnapshot(s.pool, id)
	if err != nil {
		return usage{}, err
	}
	var u usage
	err = btrfs.FileExtents(img, func(e btrfs.Extent) error {
		u.Extents++
		u.Mapped += volume.Bytes(e.Bytes)
		if e.Generation > last {
			u.InPlace += volume.Bytes(e.Bytes)
		}
		return nil
	})
	return u, err
}

func (s *btrfsStore) dataUUID(dir *os.File) (string, error) {
	data, err := openAt(dir, dataDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer data.Close()
	return btrfs.SubvolumeUUID(data)
}

func (s *btrfsStore) removeData(dir *os.File) (uint64, error) {
	data, err := openAt(dir, dataDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	id, err := btrfs.SubvolumeID(data)
	if cerr := data.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, err
	}
	return id, btrfs.DestroySubvolume(dir, dataDir)
}

// waitFreed commits, waits for the kernel's cleaner, and commits again: what was
// freed can be used only then.
func (s *btrfsStore) waitFreed(ctx context.Context, ids []uint64) error {
	if err := btrfs.WakeCleaner(s.pool); err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.waitDropped(ctx, id); err != nil {
			return err
		}
	}
	return s.commit()
}

func (s *btrfsStore) waitDropped(ctx context.Context, id uint64) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		gone, err := btrfs.Dropped(s.pool, id)
		if err != nil || gone {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the space of a deleted volume: %w", context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

func (s *btrfsStore) identity() (string, string) { return FilesystemBtrfs, s.uuid }

func (s *btrfsStore) commit() error { return btrfs.Commit(s.pool) }
