package identityvolume

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// NodeUnpublishVolume overwrites the files, unmounts the volume, removes the target,
// and ends what the volume has at its service. What is away does not hold it up, and
// nothing that a pod could have put beside the files does. Nothing there is success.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target, err := s.target(req.GetVolumeId(), req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	end, err := s.take(target)
	if err != nil {
		return nil, err
	}
	defer end()
	h := s.find(target)
	if h != nil {
		s.drop(h)
	}
	published, err := s.isPublished(target)
	if err != nil {
		return nil, fmt.Errorf("unpublish %s: %w", target, err)
	}
	var wiped error
	if published {
		// The end of the mount is the end of its files, wiped or not.
		if wiped = s.wipe(target); errors.Is(wiped, volume.ErrNotFound) {
			wiped = nil
		}
	}
	if err := s.cfg.Kubelet.RemoveTarget(ctx, target); err != nil {
		return nil, errors.Join(err, wiped)
	}
	if wiped != nil && h != nil {
		h.notice(WipeFailed, fmt.Sprintf("volume %s is unmounted, and not all of its files were overwritten before: %s", h.id, wiped))
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// wipe overwrites what is published at a target.
func (s *Server) wipe(target string) error {
	tree, err := s.writer(target)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := within(tree, payload.Dir.Wipe); err != nil {
		return fmt.Errorf("wipe %s: %w", target, err)
	}
	return nil
}
