package local

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

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
	// prepareCopy does what makes copyData from from to to fast, while from is being
	// written to. Without it copyData does the same. It ends early if ctx does. kept is
	// asked before each step whether the pool can still afford
	// it, for what is shared already must be paid for when it is overwritten.
	prepareCopy(ctx context.Context, from, to *os.File, kept func() error) error
	// copyData makes to's data/ a copy of from's, sharing all extents, at one
	// instant.
	copyData(from, to *os.File, readOnly bool) error
	// dataUUID identifies data/ for ever.
	dataUUID(dir *os.File) (string, error)
	// copied reports whether overwriting data/ may need new space, because it was
	// copied or is a copy. It is cheap; a store that cannot tell says true.
	copied(dir *os.File) (bool, error)
	// dataIn is how much of the space of an image of which nothing is shared, as
	// stat(2) shows it, is data at least.
	dataIn(allocated volume.Bytes) volume.Bytes
	// unshares says whether data is in place again once nothing else has it.
	unshares() bool
	// usage walks the extents of the image; its cost grows with their number.
	usage(dir *os.File) (usage, error)
	// removeData removes data/ at once; its space comes back later. The ticket is
	// for waitFreed; it is 0 if data/ was gone already.
	removeData(dir *os.File) (ticket uint64, err error)
	// waitFreed waits until the space of all removed data is free, or ctx ends.
	waitFreed(ctx context.Context, tickets []uint64) error
	// commit makes everything durable.
	commit() error
	// space measures what there is.
	space() (space, error)
	// grow makes the filesystem as large as its device, while it is used, and says
	// how large it was and is. It is cheap if there is nothing to grow.
	grow() (before, after volume.Bytes, err error)
}

// usage is how an image lies in the pool.
type usage struct {
	Mapped  volume.Bytes // bytes of the image that have a place in the pool
	InPlace volume.Bytes // of these, bytes that can be overwritten without new space
	Extents int
}

// space is the room in a pool, in bytes.
type space struct {
	Total volume.Bytes // size of the filesystem
	// Free is what can still be written: measured, and below what statfs(2) says
	// while writes are in flight.
	Free volume.Bytes
	// Cover is the largest sum of charges that the free space is enough for, the
	// metadata included that goes with writing so much.
	Cover volume.Bytes
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
