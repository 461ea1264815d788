package local

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/xfs"
)

// grow implements store. A few blocks at the end that make no allocation group
// stay unused.
func (s *xfsStore) grow() (before, after volume.Bytes, err error) {
	if before, err = s.size(); err != nil {
		return 0, 0, err
	}
	device, err := s.deviceSize()
	if err != nil || device <= before {
		return before, before, err
	}
	if err := filesystem.GrowOnline(s.pool, volume.XFS, device); err != nil {
		return before, before, err
	}
	after, err = s.size()
	return before, after, err
}

// size is that of the filesystem, its log included.
func (s *xfsStore) size() (volume.Bytes, error) {
	g, err := xfs.ReadGeometry(s.pool)
	return volume.Bytes(g.Blocks * g.BlockSize), err
}

// deviceSize is the size of the pool's device, as the kernel has it now.
func (s *xfsStore) deviceSize() (volume.Bytes, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(s.pool.Fd()), &st); err != nil {
		return 0, fmt.Errorf("find the pool's device: %w", err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(st.Dev), unix.Minor(st.Dev)))
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
