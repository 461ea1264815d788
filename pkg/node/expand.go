package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/capability"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// NodeExpandVolume shows the size that ControllerExpandVolume gave the volume to
// everybody on this machine: the device, the read-only devices stacked on it, and
// the mounted filesystem, while it is in use.
//
// The volume must be staged (CSI spec). One that is not is ErrPrecondition, which
// kubelet takes for "in use, later" and not for a failed resize; NodeStageVolume
// then grows the filesystem. So is a filesystem that cannot grow while it is
// mounted: ext4 without CAP_SYS_RESOURCE, and one that is staged read-only.
func (s *Server) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	v, err := s.parseExpand(ctx, req)
	if err != nil {
		return nil, err
	}
	dev, attached, err := s.lookup(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	if !attached {
		return nil, fmt.Errorf("%w: %s is not staged on this node; it grows when it is staged", volume.ErrPrecondition, v.ID)
	}
	defer dev.Close()
	if v.Format.Mode == volume.ModeFilesystem {
		if err := s.checkShown(v.ID, dev, req.GetVolumePath()); err != nil {
			return nil, err
		}
	}
	size, err := s.refresh(ctx, v)
	if err != nil {
		return nil, err
	}
	if v.Format.Mode == volume.ModeFilesystem {
		if err := s.growMounted(v, dev, size); err != nil {
			return nil, fmt.Errorf("grow %s to %s: %w", v.ID, size, err)
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: int64(size)}, s.fault.At(StepExpandAnswer)
}

// parseExpand checks the request against the volume, which the controller has
// grown already.
func (s *Server) parseExpand(ctx context.Context, req *csi.NodeExpandVolumeRequest) (volume.Volume, error) {
	var none volume.Volume
	if req.GetVolumeId() == "" {
		return none, fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	if req.GetVolumePath() == "" {
		return none, fmt.Errorf("%w: volume path is missing", volume.ErrInvalid)
	}
	required := volume.Bytes(req.GetCapacityRange().GetRequiredBytes())
	limit := volume.Bytes(req.GetCapacityRange().GetLimitBytes())
	if required < 0 || limit < 0 {
		return none, fmt.Errorf("%w: a size cannot be negative: required %d, limit %d", volume.ErrInvalid, required, limit)
	}
	id, err := parseID(req.GetVolumeId())
	if err != nil {
		return none, err
	}
	v, err := s.backend.Volume(ctx, id)
	if err != nil {
		return none, err
	}
	if m := req.GetVolumeCapability(); m != nil {
		c, err := capability.Parse(m)
		if err != nil {
			return none, err
		}
		if err := c.Fits(v.Format); err != nil {
			return none, fmt.Errorf("%w: expand %s: %w", volume.ErrInvalid, id, err)
		}
	}
	if required > v.Size || limit > 0 && limit < v.Size {
		return none, fmt.Errorf("%w: %s has %d bytes, asked for at least %d and at most %d: ControllerExpandVolume sets the size", volume.ErrOutOfRange, id, v.Size, required, limit)
	}
	return v, s.checkPath(v, req.GetVolumePath())
}

// checkPath is ErrNotFound if there is nothing at the path. For a block volume
// kubelet may name the device node, outside of its own directory; it is looked
// at and never opened.
func (s *Server) checkPath(v volume.Volume, path string) error {
	if v.Format.Mode == volume.ModeBlock {
		if _, err := os.Lstat(path); err != nil {
			return fmt.Errorf("%w: expand %s: volume path: %w", volume.ErrNotFound, v.ID, err)
		}
		return nil
	}
	t, err := s.root.OpenTarget(path)
	if err != nil {
		return fmt.Errorf("expand %s: %w", v.ID, err)
	}
	return t.Close()
}

func (s *Server) checkShown(id volume.ID, dev *backend.Device, path string) error {
	resolved, err := s.root.Resolve(path)
	if err != nil {
		return err
	}
	infos, err := mount.List()
	if err != nil {
		return err
	}
	if top, ok := topAt(infos, resolved); !ok || !shows(top, dev) {
		return fmt.Errorf("%w: expand %s: it is not mounted at %s: stage and publish it, it grows when it is staged", volume.ErrPrecondition, id, resolved)
	}
	return nil
}

// refresh shows the volume's size to its devices and returns it. The stacked
// devices have a size of their own, each.
func (s *Server) refresh(ctx context.Context, v volume.Volume) (volume.Bytes, error) {
	if err := s.fault.At(StepExpandRefresh); err != nil {
		return 0, err
	}
	if err := s.backend.Refresh(ctx, v.ID); err != nil {
		return 0, err
	}
	if v.Format.Mode == volume.ModeBlock {
		if err := s.refreshStacked(v.ID); err != nil {
			return 0, err
		}
	}
	dev, attached, err := s.lookup(ctx, v.ID)
	if err != nil {
		return 0, err
	}
	if !attached {
		return 0, fmt.Errorf("%w: %s was detached just now: stage it again", volume.ErrPrecondition, v.ID)
	}
	return dev.Size, dev.Close()
}

func (s *Server) refreshStacked(id volume.ID) error {
	stacked, err := s.findStacked(id)
	if err != nil {
		return err
	}
	for _, l := range stacked {
		dev, err := l.Open()
		if err == nil {
			err = errors.Join(dev.Refresh(), dev.Close())
		}
		// One that is gone went meanwhile, with its last user.
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			return err
		}
	}
	return nil
}

// growMounted makes the mounted filesystem as large as its device, through
// whichever of its mounts can be written to: the kernel refuses through a
// read-only one.
func (s *Server) growMounted(v volume.Volume, dev *backend.Device, size volume.Bytes) error {
	infos, err := mount.List()
	if err != nil {
		return err
	}
	mounts := mount.OfDevice(infos, dev.Major, dev.Minor)
	writable := slices.IndexFunc(mounts, func(i mount.Info) bool { return shows(i, dev) && !i.ReadOnly() && s.isTop(infos, i) })
	if writable < 0 {
		return fmt.Errorf("%w: it is mounted read-only; it grows when it is staged again", volume.ErrPrecondition)
	}
	if err := s.fault.At(StepExpandGrow); err != nil {
		return err
	}
	t, err := s.root.OpenTarget(mounts[writable].Path)
	if err != nil {
		return err
	}
	defer t.Close()
	root, err := t.Open()
	if err != nil {
		return err
	}
	return errors.Join(filesystem.GrowOnline(root, v.Format.FSType, size), root.Close())
}

// isTop says whether a mount is below kubelet's directory and is what is seen at
// its path.
func (s *Server) isTop(infos []mount.Info, i mount.Info) bool {
	if _, err := s.root.Resolve(i.Path); err != nil {
		return false
	}
	top, ok := topAt(infos, i.Path)
	return ok && top.ID == i.ID
}
