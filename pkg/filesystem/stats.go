package filesystem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Stats is how full a mounted filesystem is.
type Stats struct {
	// Total is what files can take, less than the size of the device. Available is
	// what an unprivileged user can still write.
	Total, Available, Used volume.Bytes
	// Inodes likewise, in numbers of files. XFS makes them as it needs them.
	Inodes, FreeInodes, UsedInodes int64
	// ReadOnly says that nothing can be written through this mount.
	ReadOnly bool
}

// Measure asks a mounted filesystem, of which root is any open file or directory,
// how full it is. root may be open with O_PATH.
func Measure(root *os.File) (Stats, error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(int(root.Fd()), &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return Stats{}, fmt.Errorf("measure the filesystem at %s: %w", root.Name(), err)
		}
	}
	unit := volume.Bytes(st.Frsize)
	return Stats{
		Total:      volume.Bytes(st.Blocks) * unit,
		Available:  volume.Bytes(st.Bavail) * unit,
		Used:       volume.Bytes(st.Blocks-st.Bfree) * unit,
		Inodes:     int64(st.Files),
		FreeInodes: int64(st.Ffree),
		UsedInodes: int64(st.Files - st.Ffree),
		ReadOnly:   st.Flags&unix.ST_RDONLY != 0,
	}, nil
}
