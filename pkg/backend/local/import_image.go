package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/sparse"
	"github.com/holdfast-csi/holdfast/pkg/tree"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// imageSource is the raw image of a disk, or of a filesystem.
type imageSource struct {
	file  *os.File
	stat  unix.Stat_t
	size  volume.Bytes
	data  volume.Bytes // in blocks that are no holes
	super filesystem.Superblock
	has   bool                  // an ext4 or xfs, which super is of
	lost  *filesystem.LostError // why it has none
	parts int                   // the sectors in bytes of a partition table, 0 if there is none
	notes []string
}

// lookAtImage reads the first bytes of an image; nothing is mounted, and no program
// is run on it.
func lookAtImage(f *os.File) (importSource, error) {
	s := &imageSource{file: f}
	if err := unix.Fstat(int(f.Fd()), &s.stat); err != nil {
		return nil, fmt.Errorf("look at the image: %w", err)
	}
	s.size = volume.Bytes(s.stat.Size)
	if s.size == 0 {
		return nil, fmt.Errorf("%w: the image is empty", volume.ErrInvalid)
	}
	told, err := tree.CheckNoWriter(f)
	if err != nil {
		return nil, fmt.Errorf("the image: %w", err)
	}
	if !told {
		s.notes = append(s.notes, "the image is on a filesystem that does not tell whether something has it open for writing: make sure yourself")
	}
	head := make([]byte, 8192)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the image: %w", err)
	}
	head = head[:n]
	if err := checkRaw(head); err != nil {
		return nil, err
	}
	s.parts = sectorsOfPartitions(head)
	s.super, err = filesystem.Probe(f)
	s.has = err == nil
	if err != nil && !errors.As(err, &s.lost) {
		return nil, err
	}
	s.data, err = sparse.Data(f, s.size)
	return s, err
}

// checkRaw refuses what is an image in a format of its own, or compressed: as a
// volume it would be garbage.
func checkRaw(head []byte) error {
	for magic, is := range map[string]string{
		"QFI\xfb":                   "a qcow2 image: make it raw with qemu-img convert -O raw",
		"KDMV":                      "a VMDK image: make it raw with qemu-img convert -O raw",
		"vhdxfile":                  "a VHDX image: make it raw with qemu-img convert -O raw",
		"<<< ":                      "a VDI image: make it raw with qemu-img convert -O raw",
		"\x1f\x8b":                  "compressed with gzip: unpack it",
		"\xfd7zXZ\x00":              "compressed with xz: unpack it",
		"\x28\xb5\x2f\xfd":          "compressed with zstd: unpack it",
		"\x04\x22\x4d\x18":          "compressed with lz4: unpack it",
		"PK\x03\x04":                "a zip archive: unpack it",
		"-----BEGIN PGP MESSAGE---": "encrypted: decrypt it",
	} {
		if len(head) >= len(magic) && string(head[:len(magic)]) == magic {
			return fmt.Errorf("%w: the source is no raw image but %s first", volume.ErrInvalid, is)
		}
	}
	return nil
}

// sectorsOfPartitions is the sector size that a partition table was written for, 0
// if there is none. An MBR says nothing of it, and disks that have one have 512.
func sectorsOfPartitions(head []byte) int {
	const gpt = "EFI PART"
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(4096, gpt):
		return 4096
	case at(512, gpt), at(510, "\x55\xaa"):
		return 512
	}
	return 0
}

func (s *imageSource) format(asked volume.Format, _ volume.Bytes) (volume.Format, error) {
	if asked.InodeRatio != 0 {
		return asked, fmt.Errorf("%w: an image has the inodes that it has", volume.ErrInvalid)
	}
	if asked.Mode == "" || asked.Mode == volume.ModeBlock {
		return s.blockFormat(asked)
	}
	if !s.has && s.lost.Type != "" {
		return asked, fmt.Errorf("%w: the %s in the image cannot be used: %s; repair it or copy its files with a machine that mounts it, or import the image as a block volume", volume.ErrPrecondition, s.lost.Type, s.lost.Reason)
	}
	if !s.has {
		return asked, fmt.Errorf("%w: there is no ext4 or xfs at the start of the image; import it as a block volume, or, if it has partitions, copy the one with the data into an image of its own", volume.ErrPrecondition)
	}
	if asked.FSType != "" && asked.FSType != s.super.Type {
		return asked, fmt.Errorf("%w: the image has %s, not %s", volume.ErrInvalid, s.super.Type, asked.FSType)
	}
	if s.super.Size > s.size {
		return asked, fmt.Errorf("%w: the image has %s, its filesystem %s: its end is missing", volume.ErrPrecondition, s.size, s.super.Size)
	}
	f := volume.Format{Mode: asked.Mode, FSType: s.super.Type, SectorSize: s.sectors()}
	if asked.SectorSize != 0 && asked.SectorSize != f.SectorSize {
		return asked, fmt.Errorf("%w: the filesystem in the image needs %d-byte sectors, %d were asked for", volume.ErrInvalid, f.SectorSize, asked.SectorSize)
	}
	if f.SectorSize != 4096 {
		s.notes = append(s.notes, fmt.Sprintf("the filesystem was made for %d-byte sectors: the volume has no direct I/O, so what it reads is cached twice; a copy of the files (import the mounted directory) would have it", f.SectorSize))
	}
	return f.Resolve(&f)
}

// sectors is the sector size that the filesystem can be mounted with. An xfs says
// what it was made for; an ext4 with blocks smaller than a sector is not mounted.
func (s *imageSource) sectors() int {
	const small, large = 512, 4096
	if s.super.BlockSize < large || s.super.SectorSize != 0 && s.super.SectorSize < large {
		return small
	}
	return large
}

func (s *imageSource) blockFormat(asked volume.Format) (volume.Format, error) {
	asked.Mode = volume.ModeBlock
	if asked.SectorSize == 0 {
		asked.SectorSize = s.parts
		// Where it cannot be told what it was made for: small ones fit all.
		if s.has && s.sectors() == 512 || !s.has && s.lost.Type != "" {
			asked.SectorSize = 512
		}
	}
	f, err := asked.Resolve(nil)
	if err != nil {
		return f, err
	}
	if s.has {
		s.notes = append(s.notes, fmt.Sprintf("the image has an %s; as a block volume its pods get the device, not the files: --mode=filesystem mounts it", s.super.Type))
	}
	switch {
	case s.has || s.parts != 0:
	case s.lost.Type != "":
		s.notes = append(s.notes, fmt.Sprintf("the image starts like an %s that this driver does not know: %s", s.lost.Type, s.lost.Reason))
	case f.SectorSize == 4096:
		s.notes = append(s.notes, "nothing is known of what is in the image; the volume has 4096-byte sectors, --sector-size=512 gives it smaller ones")
	}
	if f.SectorSize != 4096 {
		s.notes = append(s.notes, "the volume has 512-byte sectors, as the image: it has no direct I/O, so what it reads is cached twice")
	}
	if s.parts != 0 && s.parts != f.SectorSize {
		s.notes = append(s.notes, fmt.Sprintf("the partition table was written for %d-byte sectors and means nothing on a device with %d", s.parts, f.SectorSize))
	}
	return f, nil
}

func (s *imageSource) fits(f volume.Format) (size, least volume.Bytes) {
	size = max(s.size, f.MinSize()).RoundUp(volume.Alignment)
	return size, s.size
}

func (s *imageSource) content() volume.Bytes { return s.data }

func (s *imageSource) birth(size volume.Bytes) volume.Bytes {
	if s.has {
		return s.super.Size
	}
	return size
}

// state is what tells that the image is what it was.
func state(st unix.Stat_t) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %d.%d %d.%d", st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec))
	return hex.EncodeToString(sum[:])
}

func (s *imageSource) fingerprint() string { return state(s.stat) }

func (s *imageSource) fill(ctx context.Context, w *importing, dir *os.File) error {
	img, err := w.pool.store.createImage(dir)
	if err != nil {
		return err
	}
	defer img.Close()
	want, err := sparse.Copy(ctx, img, s.file, s.size, w.spending(img))
	if err != nil {
		return err
	}
	if err := w.step("copied"); err != nil {
		return err
	}
	if err := s.checkUnchanged(); err != nil {
		return err
	}
	if err := sparse.Forget(img); err != nil {
		return err
	}
	have, err := sparse.Sum(ctx, img, s.size, w.progress)
	if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("%w: the copy of the image does not read back as it was written: look at the pool's disk, and at the memory of this machine", volume.ErrDataLoss)
	}
	if err := img.Truncate(int64(w.record.Size)); err != nil {
		return fmt.Errorf("size the image of %s: %w", w.record.ID, err)
	}
	if w.record.Format.Mode == volume.ModeFilesystem {
		if err := s.checkFilesystem(ctx, w, dir, img); err != nil {
			return err
		}
	}
	return w.step("verified")
}

func (s *imageSource) checkUnchanged() error {
	var now unix.Stat_t
	if err := unix.Fstat(int(s.file.Fd()), &now); err != nil {
		return fmt.Errorf("look at the image: %w", err)
	}
	if state(now) != s.fingerprint() {
		return fmt.Errorf("%w: the image changed while it was copied: stop what writes to it, and import it again", volume.ErrInUse)
	}
	if _, err := tree.CheckNoWriter(s.file); err != nil {
		return fmt.Errorf("the image: %w", err)
	}
	return nil
}

// checkFilesystem looks through the filesystem in the copy, which nobody else has
// yet, and mounts it once, read-only: what this kernel does not mount at all is refused
// now and not when a pod starts. A feature that only writing needs may still be
// missing. Whoever asked for the import
// vouches for the image: the kernel's filesystems are not made for images that
// somebody prepared to break them.
func (s *imageSource) checkFilesystem(ctx context.Context, w *importing, dir, img *os.File) error {
	before, err := filesystem.Probe(img)
	if err != nil {
		return err
	}
	if before != s.super {
		return fmt.Errorf("%w: the superblock in the copy is not that of the image", volume.ErrDataLoss)
	}
	fault, err := w.pool.verifyCopy(ctx, img, w.record.Format)
	if errors.Is(err, filesystem.ErrUnknownFeatures) {
		return fmt.Errorf("%w: the filesystem in the image is newer than this driver's programs; import the files of the mounted directory, or the image as a block volume: %w", volume.ErrPrecondition, err)
	}
	if err != nil {
		return err
	}
	if fault != "" {
		return fmt.Errorf("%w: the %s in the image is damaged; repair it first, or import the image as a block volume: %s", volume.ErrPrecondition, s.super.Type, fault)
	}
	return w.mounted(ctx, dir, true, func(_, _ *os.File) error { return nil })
}

func (s *imageSource) describe(out *Imported) {
	out.Content, out.Notes = s.data, s.notes
	if longer := out.Volume.Size - s.size; longer > 0 && out.Volume.Format.Mode == volume.ModeBlock {
		out.Notes = append(out.Notes, fmt.Sprintf("the volume is %d bytes longer than the image; what is beyond reads as zeros", longer))
	}
}
