package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// mountTree mounts the filesystem of a device so that nobody sees it yet: after a
// check, as large as the device, and read-only if asked for. The caller closes
// the tree.
func (s *Server) mountTree(ctx context.Context, v volume.Volume, dev *backend.Device, options filesystem.Options) (*mount.Tree, error) {
	sb, err := probe(dev.Path, v.Format.FSType)
	if err != nil {
		return nil, err
	}
	held, err := isHeld(dev.Path)
	if err != nil {
		return nil, err
	}
	// Checking or growing a filesystem from outside while it is mounted somewhere
	// would destroy it.
	if !held {
		if sb, err = s.repair(ctx, dev, sb); err != nil {
			return nil, err
		}
	}
	if err := s.fault.At(StepStageMount); err != nil {
		return nil, err
	}
	grow := !sb.Fills(dev.Size) && growsMounted(sb.Type, held, options.ReadOnly)
	tree, err := mount.New(ctx, mount.Config{
		FSType:  string(sb.Type),
		Source:  dev.Path,
		Options: options.Super,
		Attr:    options.Attr,
		// A filesystem that is to grow must be writable first.
		ReadOnly: options.ReadOnly && !grow,
	})
	if err != nil {
		return nil, err
	}
	if grow {
		err = s.growTree(tree, sb.Type, dev.Size)
	}
	if err == nil && options.ReadOnly {
		err = seal(tree, grow)
	}
	if err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// growsMounted says whether a filesystem is to grow through a mount of it. One
// that others have mounted must not become read-only under them.
func growsMounted(t volume.FSType, held, readOnly bool) bool {
	if held {
		return !readOnly && filesystem.CanGrowOnline(t)
	}
	return t == volume.XFS
}

// seal makes the mount read-only, and the whole filesystem if it is not yet. The
// mount alone says for ever what it was staged as; a filesystem may also go
// read-only by itself.
func seal(tree *mount.Tree, writable bool) error {
	if writable {
		if err := tree.SetReadOnly(); err != nil {
			return err
		}
	}
	return tree.SetAttr(mount.AttrReadOnly)
}

// repair checks a filesystem that nobody uses and, where that works only from
// outside (ext4), makes it as large as its device.
func (s *Server) repair(ctx context.Context, dev *backend.Device, sb filesystem.Superblock) (filesystem.Superblock, error) {
	if err := s.fault.At(StepStageCheck); err != nil {
		return sb, err
	}
	if err := filesystem.Check(ctx, s.runner, dev.Path, sb.Type); err != nil {
		return sb, err
	}
	if sb.Type != volume.Ext4 || sb.Fills(dev.Size) {
		return sb, nil
	}
	if err := s.fault.At(StepStageGrow); err != nil {
		return sb, err
	}
	if err := filesystem.GrowOffline(ctx, s.runner, dev.Path); err != nil {
		return sb, err
	}
	return probe(dev.Path, sb.Type)
}

func (s *Server) growTree(tree *mount.Tree, t volume.FSType, size volume.Bytes) error {
	if err := s.fault.At(StepStageGrow); err != nil {
		return err
	}
	root, err := tree.Root()
	if err != nil {
		return err
	}
	return errors.Join(filesystem.GrowOnline(root, t, size), root.Close())
}

// probe reads the superblock. It is ErrDataLoss unless the device holds the
// filesystem that the volume was born with.
func probe(path string, want volume.FSType) (filesystem.Superblock, error) {
	f, err := os.Open(path)
	if err != nil {
		return filesystem.Superblock{}, fmt.Errorf("read the superblock: %w", err)
	}
	defer f.Close()
	sb, err := filesystem.ProbeInUse(f)
	if err != nil {
		return sb, fmt.Errorf("%s: %w", path, err)
	}
	if sb.Type != want {
		return sb, fmt.Errorf("%w: %s holds %s, the volume was made with %s: somebody formatted it; restore a snapshot", volume.ErrDataLoss, path, sb.Type, want)
	}
	return sb, nil
}

// isHeld says whether a filesystem on the device is mounted in any mount
// namespace: a mount holds its device exclusively, and mountinfo shows only our
// own namespace (man 2 open, O_EXCL on block devices).
func isHeld(path string) (bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s: %w", path, err)
	}
	return false, unix.Close(fd)
}
