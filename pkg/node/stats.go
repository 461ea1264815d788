package node

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// NodeGetVolumeStats answers how full a volume is. It is ErrNotFound unless the
// volume is mounted at the path, or its device is there. It attaches nothing,
// waits for nobody, and does not read the list of mounts, which is long on a node
// with many volumes.
func (s *Server) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	if req.GetVolumePath() == "" {
		return nil, fmt.Errorf("%w: volume path is missing", volume.ErrInvalid)
	}
	id, err := parseID(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	dev, attached, err := s.lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	elsewhere := func(why any) error {
		return fmt.Errorf("%w: %s is not at %s: %v", volume.ErrNotFound, id, req.GetVolumePath(), why)
	}
	if !attached {
		return nil, elsewhere("it is not staged on this node")
	}
	defer dev.Close()
	target, err := s.root.OpenTarget(req.GetVolumePath())
	if err != nil {
		return nil, elsewhere(err)
	}
	defer target.Close()
	usage, err := s.usageAt(id, dev, target)
	if err != nil {
		return nil, explainFailure(id, err)
	}
	if usage == nil {
		return nil, elsewhere("something else is there")
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

// explainFailure says what to do about a filesystem that answers nothing any
// more.
func explainFailure(id volume.ID, err error) error {
	if isDead(err) {
		return fmt.Errorf("%w: the filesystem of %s has failed; end its pods, and it is checked when it is staged again: %w", volume.ErrPrecondition, id, err)
	}
	return err
}

// usageAt is nil if the target is neither the root of a mount of the device's
// filesystem nor a node of the device or of a read-only device stacked on it.
func (s *Server) usageAt(id volume.ID, dev *backend.Device, target *mount.Target) ([]*csi.VolumeUsage, error) {
	var st unix.Statx_t
	err := unix.Statx(int(target.File().Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", target.Path(), err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return blockUsage(id, dev, st.Rdev_major, st.Rdev_minor)
	case unix.S_IFDIR:
		isRoot := st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
		if !isRoot || st.Dev_major != dev.Major || st.Dev_minor != dev.Minor {
			return nil, nil
		}
		return s.filesystemUsage(id, target)
	}
	return nil, nil
}

// filesystemUsage is what df says; but where the engine has promised more than it
// has, no more is available than is left in the pool.
func (s *Server) filesystemUsage(id volume.ID, target *mount.Target) ([]*csi.VolumeUsage, error) {
	st, err := filesystem.Measure(target.File())
	if err != nil {
		return nil, err
	}
	if left, ok := s.backend.Headroom(id); ok {
		st.Available = min(st.Available, left)
	}
	return []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(st.Total), Available: int64(st.Available), Used: int64(st.Used)},
		{Unit: csi.VolumeUsage_INODES, Total: st.Inodes, Available: st.FreeInodes, Used: st.UsedInodes},
	}, nil
}

func blockUsage(id volume.ID, dev *backend.Device, major, minor uint32) ([]*csi.VolumeUsage, error) {
	total := func(size volume.Bytes) []*csi.VolumeUsage {
		return []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: int64(size)}}
	}
	if major == dev.Major && minor == dev.Minor {
		return total(dev.Size), nil
	}
	l, ok, err := loop.WithNumber(major, minor)
	if err != nil || !ok || l.Tag != stackedTag(id) {
		return nil, err
	}
	return total(l.Size), nil
}
