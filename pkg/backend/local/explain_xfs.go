package local

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/xfs"
)

var _ mapper = (*xfsStore)(nil)

func (s *xfsStore) mapped(dir *os.File, fn func(physical) error) error {
	img, err := openAt(dir, dataDir+"/"+imageFile, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer img.Close()
	return xfs.WalkExtents(img, func(e xfs.Extent) error {
		if e.Start == 0 {
			return nil // written a moment ago
		}
		return fn(physical{start: e.Start, bytes: e.Length, live: e.Length})
	})
}

func (s *xfsStore) wholeExtents() bool { return false }

// metadata: XFS keeps no count.
func (s *xfsStore) metadata() (volume.Bytes, bool, error) { return 0, false, nil }
