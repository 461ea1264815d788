package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/btrfs"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A pool grows while its volumes are used, in steps of which each may be the last
// before a crash: the image is allocated, lengthened, its loop device told, and the
// filesystem made as large as its device. Each start goes on where that stopped;
// for a disk that became larger only the last step is left.

// growImage makes the pool image as large as --pool-size says, if that is more. It
// is all or nothing: the place is taken on the host's disk before the image is any
// longer. An image that cannot grow is used as it is.
func (b *Backend) growImage(img *os.File, pc PoolConfig) error {
	st, err := img.Stat()
	if err != nil {
		return fmt.Errorf("stat the pool image: %w", err)
	}
	have := volume.Bytes(st.Size())
	switch {
	case have == pc.Size:
		// A crash may have left more, that was to be and is not wanted any more.
		return b.cutBeyond(img, have)
	case have > pc.Size:
		b.notice(PoolSizeKept, "the pool image %s has %s, --pool-size says %s; it is not made smaller", img.Name(), have, pc.Size)
		return b.cutBeyond(img, have)
	}
	if err := b.allocateMore(img, have, pc.Size); err != nil {
		b.notice(PoolSizeKept, "the pool image %s has %s, --pool-size says %s; it keeps its size: %v", img.Name(), have, pc.Size, err)
		return nil
	}
	if err := b.cfg.Fault.At("grow-pool/allocated"); err != nil {
		return err
	}
	if err := img.Truncate(int64(pc.Size)); err != nil {
		return fmt.Errorf("lengthen the pool image to %s: %w", pc.Size, err)
	}
	if err := img.Sync(); err != nil {
		return fmt.Errorf("sync the pool image: %w", err)
	}
	return b.cfg.Fault.At("grow-pool/lengthened")
}

// cutBeyond gives back what is allocated beyond the end of the image.
func (b *Backend) cutBeyond(img *os.File, have volume.Bytes) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return fmt.Errorf("stat the pool image: %w", err)
	}
	if volume.Bytes(st.Blocks)*statBlock <= have {
		return nil
	}
	if err := img.Truncate(int64(have)); err != nil {
		return fmt.Errorf("give back what is beyond the end of the pool image: %w", err)
	}
	return nil
}

// allocateMore takes the place of what the image is to grow by, beyond its end. What
// a crash left there is counted; where there is not enough for all, it is given back.
func (b *Backend) allocateMore(img *os.File, have, want volume.Bytes) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &st); err != nil {
		return fmt.Errorf("stat the pool image: %w", err)
	}
	beyond := max(0, volume.Bytes(st.Blocks)*statBlock-have)
	err := b.checkHostRoom(img, max(0, want-have-beyond))
	if err == nil {
		if err = unix.Fallocate(int(img.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(have), int64(want-have)); err == nil {
			err = img.Sync()
		}
		if err == nil {
			return nil
		}
		err = fmt.Errorf("allocate %s more: %w", want-have, err)
	}
	// Cutting at the end gives back what was taken beyond it.
	return errors.Join(err, img.Truncate(int64(have)))
}

// refreshImage tells the loop device of the pool image that the image has grown.
func (b *Backend) refreshImage(img *os.File, dev *loop.Device) error {
	st, err := img.Stat()
	if err != nil {
		return fmt.Errorf("stat the pool image: %w", err)
	}
	size, err := dev.Size()
	if err != nil || size >= volume.Bytes(st.Size()) {
		return err
	}
	if err := dev.Refresh(); err != nil {
		return err
	}
	if size, err = dev.Size(); err == nil && size < volume.Bytes(st.Size()) {
		err = fmt.Errorf("%w: %s still has %s after it was told to have %s", volume.ErrPrecondition, dev.Path(), size, volume.Bytes(st.Size()))
	}
	if err != nil {
		return err
	}
	return b.cfg.Fault.At("grow-pool/refreshed")
}

// growToDevice makes the pool's filesystem as large as its device.
func (p *pool) growToDevice() error {
	before, after, err := p.store.grow()
	if err != nil {
		return fmt.Errorf("grow the pool's filesystem to its device: %w", err)
	}
	if after == before {
		return nil
	}
	if err := p.backend.cfg.Fault.At("grow-pool/grown"); err != nil {
		return err
	}
	p.backend.notice(PoolGrown, "pool %s has grown from %s to %s", p.name, before, after)
	return nil
}

// tellUngrown tells of a filesystem that cannot grow, which is tried again and
// again.
func (p *pool) tellUngrown(err error) {
	p.mu.Lock()
	news := p.ungrown.isNews(err, time.Now())
	p.mu.Unlock()
	if news {
		p.backend.notice(PoolSizeKept, "pool %s: %v; it keeps its size, and is tried again", p.name, err)
	}
}

// grow implements store.
func (s *btrfsStore) grow() (before, after volume.Bytes, err error) {
	d, err := btrfs.OnlyDevice(s.pool)
	if errors.Is(err, unix.ENOTUNIQ) {
		return 0, 0, nil // whoever put several together grows them
	}
	if err != nil {
		return 0, 0, err
	}
	before = volume.Bytes(d.Bytes)
	room, err := s.deviceSize()
	const sector = 4096 // btrfs uses whole ones
	if err != nil || room/sector*sector <= before {
		return before, before, err
	}
	if err := btrfs.Grow(s.pool, d.ID); err != nil {
		return before, before, err
	}
	d, err = btrfs.OnlyDevice(s.pool)
	return before, volume.Bytes(d.Bytes), err
}

// deviceSize is the size of the only device, as the kernel has it now.
func (s *btrfsStore) deviceSize() (volume.Bytes, error) {
	entries, err := os.ReadDir(s.sysfs("devices"))
	if err != nil {
		return 0, fmt.Errorf("find the pool's device: %w", err)
	}
	if len(entries) != 1 {
		return 0, fmt.Errorf("%w: the pool's filesystem has %d devices", volume.ErrPrecondition, len(entries))
	}
	text, err := os.ReadFile(filepath.Join(s.sysfs("devices"), entries[0].Name(), "size"))
	if err != nil {
		return 0, fmt.Errorf("read the size of the pool's device: %w", err)
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the size of the pool's device: %w", err)
	}
	const unit = 512 // of sysfs
	return volume.Bytes(sectors) * unit, nil
}
