package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The ballast is space that nobody is promised. On a pool that is full to the
// brim even a record of a few bytes cannot be written, and so nothing could be
// deleted; then the ballast goes first, and comes back when there is room.

const (
	ballastFile = "ballast"
	// ballastShare of the pool: 2 %.
	ballastShare = 50
	maxBallast   = 512 * volume.MiB
	minBallast   = 8 * volume.MiB
)

func (p *pool) ballastSize() (volume.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(p.dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("statfs the pool: %w", err)
	}
	total := volume.Bytes(st.Blocks) * volume.Bytes(st.Bsize)
	return min(max(total/ballastShare, minBallast), maxBallast), nil
}

// ensureBallast allocates the ballast if it is missing and the pool has room for
// it beside all its promises.
func (p *pool) ensureBallast() error {
	size, err := p.ballastSize()
	if err != nil {
		return err
	}
	if st, err := p.root.Lstat(ballastFile); err == nil && volume.Bytes(st.Size()) >= size {
		return nil
	}
	room, err := p.room()
	if err != nil {
		return err
	}
	if room < size {
		return nil // not now
	}
	f, err := p.root.OpenFile(ballastFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make the ballast: %w", err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil {
		return fmt.Errorf("allocate %s of ballast: %w", size, err)
	}
	return nil
}

// withBallast runs fn, which writes records. If the pool is full, it drops the
// ballast and runs fn again. fn must be idempotent.
func (p *pool) withBallast(fn func() error) error {
	err := fn()
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if rerr := p.root.Remove(ballastFile); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		return errors.Join(noSpace(err), rerr)
	}
	if cerr := p.store.commit(); cerr != nil {
		return errors.Join(noSpace(err), cerr)
	}
	return noSpace(fn())
}
