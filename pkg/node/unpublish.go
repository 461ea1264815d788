package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// NodeUnpublishVolume unmounts every layer at the target and removes the target.
// Nothing there is success, and so is a volume that does not exist: the target
// is cleaned all the same, because a pod that cannot be torn down is worse than
// a volume that is unknown. A target with files of somebody else in it is
// ErrPrecondition and stays, and so is one where something of somebody else is
// mounted.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	id, path, err := s.leaving(ctx, req.GetVolumeId(), "target path", req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	isNode, err := s.isNodeAt(path)
	if err != nil {
		return nil, err
	}
	if err := s.fault.At(StepUnpublishRemove); err != nil {
		return nil, err
	}
	if err := s.root.RemoveTarget(ctx, path); err != nil {
		return nil, err
	}
	// Only a target that was a device can have left a stacked device. After a
	// crash right here it stays until the next publish or unstage finds it.
	if id != "" && isNode {
		if err := s.fault.At(StepUnpublishUnstack); err != nil {
			return nil, err
		}
		if err := s.sweepInTurn(ctx, id); err != nil {
			return nil, err
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, s.fault.At(StepUnpublishAnswer)
}

// leaving reads what a volume is to be taken away from: the path as mountinfo shows
// it, which has nothing of somebody else, and the id, "" if it is none of ours.
func (s *Server) leaving(ctx context.Context, volumeID, what, path string) (volume.ID, string, error) {
	if volumeID == "" {
		return "", "", fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	if path == "" {
		return "", "", fmt.Errorf("%w: %s is missing", volume.ErrInvalid, what)
	}
	path, err := s.root.Resolve(path)
	if err != nil {
		return "", "", err
	}
	id, err := volume.ParseID(volume.KindVolume, volumeID)
	if err != nil {
		id = "" // the path is cleaned all the same
	}
	return id, path, s.checkForeign(ctx, id, path)
}

// sweepInTurn sweeps between two publications of the volume and never during one,
// which has a device in hand that no mount shows yet.
//
// The unmount before it takes no turn, so that one that hangs holds up nobody. It
// needs none: a publication that runs beside it counts the target as long as it is
// mounted, which refuses a second single pod too often and never too seldom; and
// the sweep sees each target that such a publication has made.
func (s *Server) sweepInTurn(ctx context.Context, id volume.ID) error {
	end, err := s.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer end()
	return s.sweepStacked(id)
}

// isNodeAt says whether one of the layers at a path is not a whole filesystem,
// as the bind of a device node.
func (s *Server) isNodeAt(path string) (bool, error) {
	infos, err := mount.List()
	if err != nil {
		return false, err
	}
	for _, i := range mount.At(infos, path) {
		if i.Root != "/" {
			return true, nil
		}
	}
	return false, nil
}

// detachStacked lets go of a stacked device if it is what it was a moment ago.
func detachStacked(l loop.Info) error {
	dev, err := l.Open()
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return dev.Detach()
}
