package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// WithNumber is the attached device with this device number. ok is false if it is
// not attached, or is no loop device.
func WithNumber(major, minor uint32) (info Info, ok bool, err error) {
	link := fmt.Sprintf("/sys/dev/block/%d:%d", major, minor)
	target, err := os.Readlink(link)
	if errors.Is(err, os.ErrNotExist) {
		return Info{}, false, nil
	}
	if err != nil {
		return Info{}, false, fmt.Errorf("look for block device %d:%d: %w", major, minor, err)
	}
	digits, isLoop := strings.CutPrefix(filepath.Base(target), "loop")
	index, err := strconv.Atoi(digits)
	if !isLoop || err != nil {
		return Info{}, false, nil
	}
	dev, err := Open(index)
	if errors.Is(err, volume.ErrNotFound) {
		return Info{}, false, nil
	}
	if err != nil {
		return Info{}, false, err
	}
	defer dev.Close()
	info, err = dev.Info()
	if errors.Is(err, volume.ErrNotFound) {
		return Info{}, false, nil
	}
	return info, err == nil && info.Major == major && info.Minor == minor, err
}
