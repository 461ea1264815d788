package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ext4Features are what e2fsprogs 1.47 of Debian 12 has by default, spelled out
// because the defaults come from a file of the host. Later ones (orphan_file,
// metadata_csum_seed) keep kernels before 5.15 from mounting.
const ext4Features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg," +
	"sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// Format makes the filesystem f on path, an absolute path to an image file that
// this operation made (or a device), which must still be empty: content at its
// start or end is volume.ErrPrecondition, and nothing is overwritten. A size that
// is too small or not a multiple of volume.Alignment is volume.ErrOutOfRange; a
// block volume is volume.ErrInvalid.
//
// An image stays sparse. mkfs is not atomic: after an error, or a crash, the image
// is to be removed and made anew.
func Format(ctx context.Context, runner command.Runner, path string, f volume.Format) error {
	fail := func(err error) error { return fmt.Errorf("format %s as %s: %w", path, f, err) }
	if f.Mode != volume.ModeFilesystem {
		return fail(fmt.Errorf("%w: it is no filesystem volume", volume.ErrInvalid))
	}
	if !filepath.IsAbs(path) {
		return fail(fmt.Errorf("%w: the path is not absolute", volume.ErrInvalid))
	}
	size, err := checkEmpty(path)
	if err != nil {
		return fail(err)
	}
	if size < f.MinSize() || size%volume.Alignment != 0 {
		return fail(fmt.Errorf("%w: %d bytes; it must be a multiple of %d and at least %s", volume.ErrOutOfRange, size, volume.Alignment, f.MinSize()))
	}
	var argv []string
	switch f.FSType {
	case volume.Ext4:
		argv = mkfsExt4(path, size, f)
	case volume.XFS:
		argv = mkfsXFS(path)
	default:
		return fail(fmt.Errorf("%w: supported are %s and %s", volume.ErrInvalid, volume.Ext4, volume.XFS))
	}
	if _, err := runner.Run(ctx, argv...); err != nil {
		return fail(err)
	}
	return nil
}

// mkfsExt4 leaves the journal and the inode tables unwritten, which a new sparse
// image allows: a 1 TiB image then takes 16 MiB instead of 17 GiB. On an error the
// filesystem becomes read-only rather than worse.
func mkfsExt4(path string, size volume.Bytes, f volume.Format) []string {
	return []string{
		"mkfs.ext4", "-q", "-T", "default",
		"-O", ext4Features,
		"-b", "4096", "-I", "256", "-i", strconv.Itoa(InodeRatio(size, f)),
		"-m", "0", "-e", "remount-ro",
		"-E", "nodiscard,assume_storage_prezeroed=1",
		"--", path,
	}
}

// InodeRatio is the bytes for each inode of an ext4 of this size: what f asks for,
// else what mke2fs.conf says.
func InodeRatio(size volume.Bytes, f volume.Format) int {
	switch {
	case f.InodeRatio != 0:
		return f.InodeRatio
	case size < 512*volume.MiB:
		return 4096
	case size < 4*volume.TiB:
		return 16384
	case size < 16*volume.TiB:
		return 32768
	}
	return 65536
}

// mkfsXFS spells out every feature that kernel 5.15 knows, and leaves out those
// that it does not (nrext64). It never forces: mkfs.xfs refuses a device on which
// it finds something.
func mkfsXFS(path string) []string {
	return []string{
		"mkfs.xfs", "-q", "-K",
		"-s", "size=4096", "-b", "size=4096",
		"-m", "crc=1,finobt=1,rmapbt=0,reflink=1,inobtcount=1,bigtime=1",
		"-i", "size=512,sparse=1,nrext64=0",
		"-d", "noalign",
		"--", path,
	}
}

// margin is how much of the start and the end of a device must be zero for it to
// count as empty: every filesystem, partition table and RAID has its mark there.
const margin = 64 << 10

func checkEmpty(path string) (volume.Bytes, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: %w", volume.ErrNotFound, err)
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if _, err := unix.Seek(int(file.Fd()), 0, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
		return volume.Bytes(size), nil
	}
	for _, at := range []int64{0, max(0, size-margin)} {
		buf := make([]byte, min(margin, size))
		if _, err := file.ReadAt(buf, at); err != nil {
			return 0, err
		}
		for i, b := range buf {
			if b != 0 {
				return 0, fmt.Errorf("%w: there is data in it already, at byte %d; only a new, empty image is formatted", volume.ErrPrecondition, at+int64(i))
			}
		}
	}
	return volume.Bytes(size), nil
}
