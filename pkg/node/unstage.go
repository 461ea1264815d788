package node

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// NodeUnstageVolume unmounts every layer at the staging path and detaches the
// volume. A volume that is not staged, or does not exist, is success. While the
// volume is still published it is ErrInUse and nothing is changed: the CO must
// unpublish first (CSI spec, RPC Interactions and Reference Counting). Something of
// somebody else at the path is ErrPrecondition.
//
// What other mount namespaces still hold does not count: the device then goes
// with its last user.
func (s *Server) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	id, path, err := s.leaving(ctx, req.GetVolumeId(), "staging target path", req.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	if id != "" {
		if err := s.checkUnused(ctx, id, path); err != nil {
			return nil, err
		}
	}
	if err := s.fault.At(StepUnstageUnmount); err != nil {
		return nil, err
	}
	if err := s.root.Unmount(ctx, path); err != nil {
		return nil, err
	}
	if id != "" {
		if err := s.release(ctx, id); err != nil {
			return nil, err
		}
	}
	return &csi.NodeUnstageVolumeResponse{}, s.fault.At(StepUnstageAnswer)
}

func (s *Server) checkUnused(ctx context.Context, id volume.ID, staging string) error {
	dev, attached, err := s.lookup(ctx, id)
	if err != nil || !attached {
		return err
	}
	defer dev.Close()
	var stacked []loop.Info
	if s.mayStack(ctx, id) {
		if stacked, err = s.findStacked(id); err != nil {
			return err
		}
	}
	infos, err := mount.List()
	if err != nil {
		return err
	}
	if users := s.usersOf(infos, dev, stacked, staging); len(users) > 0 {
		return fmt.Errorf("%w: %s is still published at %s: unpublish it there first", volume.ErrInUse, id, some(users))
	}
	return nil
}

// mayStack is false for a volume that cannot have read-only devices stacked on
// its own: looking at all loop devices is slow where there are many.
func (s *Server) mayStack(ctx context.Context, id volume.ID) bool {
	v, err := s.backend.Volume(ctx, id)
	return err != nil || v.Format.Mode == volume.ModeBlock
}

// release lets go of the devices of a volume that nobody uses any more.
func (s *Server) release(ctx context.Context, id volume.ID) error {
	if err := s.fault.At(StepUnstageUnstack); err != nil {
		return err
	}
	// The stacked ones first: they hold the volume's own device.
	if s.mayStack(ctx, id) {
		if err := s.sweepStacked(id); err != nil {
			return err
		}
	}
	if err := s.fault.At(StepUnstageDetach); err != nil {
		return err
	}
	return s.backend.Detach(ctx, id)
}
