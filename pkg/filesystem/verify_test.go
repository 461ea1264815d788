package filesystem_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A filesystem that is newer than xfs_repair is not damaged.
func TestANewerXFSIsNotDamaged(t *testing.T) {
	requireTool(t, "xfs_repair")
	path := newFilesystem(t, volume.XFS, 320*volume.MiB)
	sb, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// struct xfs_dsb (fs/xfs/libxfs/xfs_format.h): an incompatible feature of the far
	// future, and the checksum of the sector, which has its own place as zero.
	const sector, incompatAt, crcAt = 4096, 216, 224
	binary.BigEndian.PutUint32(sb[incompatAt:], binary.BigEndian.Uint32(sb[incompatAt:])|1<<30)
	binary.LittleEndian.PutUint32(sb[crcAt:], 0)
	binary.LittleEndian.PutUint32(sb[crcAt:], crc32.Checksum(sb[:sector], crc32.MakeTable(crc32.Castagnoli)))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(sb[:sector], 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	fault, err := filesystem.Verify(t.Context(), command.New(), path, volume.XFS)
	if fault != "" || !errors.Is(err, filesystem.ErrUnknownFeatures) {
		t.Errorf("fault %q, %v", fault, err)
	}
}
