package local

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/tree"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// treeSource is a directory to import.
type treeSource struct {
	dir    *os.File
	survey *tree.Survey
}

func lookAtTree(ctx context.Context, dir *os.File) (importSource, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), markerFile, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		return nil, fmt.Errorf("%w: the source is a pool, or a copy of one (it has %s): driver pool adopt is for pools", volume.ErrInvalid, markerFile)
	}
	survey, err := tree.Look(ctx, dir)
	return &treeSource{dir, survey}, err
}

// format: a directory becomes a filesystem that was made for it. Where the usual
// number of inodes is too small for so many files, ext4 gets more.
func (s *treeSource) format(asked volume.Format, size volume.Bytes) (volume.Format, error) {
	if asked.Mode == "" {
		asked.Mode = volume.ModeFilesystem
	}
	if asked.Mode != volume.ModeFilesystem {
		return asked, fmt.Errorf("%w: a directory becomes a volume with a filesystem, not a block volume", volume.ErrInvalid)
	}
	f, err := asked.Resolve(nil)
	if err != nil || f.FSType != volume.Ext4 || f.InodeRatio != 0 {
		return f, err
	}
	if size == 0 {
		size, _ = s.fits(f)
	}
	if size/volume.Bytes(filesystem.InodeRatio(size, f)) < s.inodes() {
		f.InodeRatio = volume.InodeRatios[0]
	}
	return f, nil
}

// inodes is how many a volume should have, with some to spare.
func (s *treeSource) inodes() volume.Bytes {
	const spare, reserved = 10, 64 // a tenth; what ext4 keeps for itself
	n := volume.Bytes(s.survey.Inodes)
	return n + n/spare + reserved
}

// fits: the content, an eighth for what the filesystem needs to know where it is
// (inode tables, which take a sixteenth of a small ext4, extents, directories), and
// the log, which xfs has from 64 MiB on.
func (s *treeSource) fits(f volume.Format) (size, least volume.Bytes) {
	const share = 8
	fixed := 32 * volume.MiB
	if f.FSType == volume.XFS {
		fixed = 128 * volume.MiB
	}
	size = s.survey.Content + s.survey.Content/share + fixed
	if f.FSType == volume.Ext4 {
		size = max(size, s.inodes()*volume.Bytes(volume.InodeRatios[0]))
	}
	return max(size, f.MinSize()).RoundUp(volume.MiB), s.survey.Content
}

func (s *treeSource) content() volume.Bytes { return s.survey.Content }

func (s *treeSource) birth(size volume.Bytes) volume.Bytes { return size }

func (s *treeSource) fingerprint() string { return s.survey.Fingerprint }

func (s *treeSource) fill(ctx context.Context, w *importing, dir *os.File) error {
	if err := w.pool.makeImage(ctx, dir, w.record); err != nil {
		return err
	}
	if err := w.step("formatted"); err != nil {
		return err
	}
	err := w.mounted(ctx, dir, false, func(img, root *os.File) error {
		return s.survey.Copy(ctx, s.dir, root, w.spending(img))
	})
	if err != nil {
		return tooSmall(err, w.record.Size)
	}
	if err := w.step("copied"); err != nil {
		return err
	}
	// Mounted anew, so that what is compared comes from the pool and not from memory.
	err = w.mounted(ctx, dir, true, func(_, root *os.File) error { return s.survey.Verify(ctx, s.dir, root, w.progress) })
	if err != nil {
		return err
	}
	return w.step("verified")
}

func (s *treeSource) describe(out *Imported) {
	out.Entries, out.Content, out.Notes = s.survey.Entries, s.survey.Content, s.survey.Notes()
}
