package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const (
	dataDir   = "data"
	imageFile = "disk.img"
)

// store is what the filesystem of a pool does for copy on write. dir is always
// an open object directory; its data/ holds the image.
type store interface {
	// identity is the type of the filesystem and its UUID.
	identity() (fsType, uuid string)
	// createImage makes data/disk.img, empty, and opens it for writing.
	createImage(dir *os.File) (*os.File, error)
	// copyData makes to's data/ a copy of from's, sharing all extents, at one
	// instant.
	copyData(from, to *os.File, readOnly bool) error
	// dataUUID identifies data/ for ever.
	dataUUID(dir *os.File) (string, error)
	// copied reports whether data/ was ever copied or is a copy: overwriting may
	// then need new space, for as long as it lives.
	copied(dir *os.File) (bool, error)
	// removeData removes data/ at once; its space comes back later. The ticket is
	// for waitFreed; it is 0 if data/ was gone already.
	removeData(dir *os.File) (ticket uint64, err error)
	// waitFreed waits until the space of all removed data is free, or ctx ends.
	waitFreed(ctx context.Context, tickets []uint64) error
	// commit makes everything durable.
	commit() error
	// free is what can still be written in bytes: measured, and below what
	// statfs(2) says while writes are in flight.
	free() (volume.Bytes, error)
}

// btrfsStore keeps each image NOCOW in a subvolume of its own.
type btrfsStore struct {
	pool *os.File // the pool's directory
	uuid string
}

// newBtrfsStore checks that an open directory is on a btrfs that can hold a
// pool.
func newBtrfsStore(dir *os.File) (*btrfsStore, error) {
	ok, err := btrfs.IsBtrfs(dir)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s is not on btrfs; mount one there, or give --pool-size for a pool image", volume.ErrPrecondition, dir.Name())
	}
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

func (s *btrfsStore) identity() (string, string) { return "btrfs", s.uuid }

func (s *btrfsStore) commit() error { return btrfs.Commit(s.pool) }

func (s *btrfsStore) free() (volume.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.pool.Fd()), &st); err != nil {
		return 0, fmt.Errorf("statfs the pool: %w", err)
	}
	free := volume.Bytes(st.Bavail) * volume.Bytes(st.Bsize)
	// statfs lags behind what is promised to writes in flight.
	for _, counter := range []string{"bytes_may_use", "bytes_reserved", "bytes_pinned"} {
		data, err := os.ReadFile(s.sysfs("allocation/data/" + counter))
		if err != nil {
			return 0, fmt.Errorf("read the pool's space counters: %w", err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the pool's space counter %s: %w", counter, err)
		}
		free -= volume.Bytes(n)
	}
	return max(free, 0), nil
}

// openAt opens a name below dir that must not lead through a symbolic link or
// out of dir.
func openAt(dir *os.File, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Mode:    createMode(flags),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	path := filepath.Join(dir.Name(), name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func createMode(flags uint64) uint64 {
	if flags&unix.O_CREAT != 0 {
		return 0o600
	}
	return 0
}
