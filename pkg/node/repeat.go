package node

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Repeats answers a NodePublishVolume whose target shows the volume as it is asked for
// already, which kubelet repeats. ok is false if it does not, if that takes more than a
// look, and for any other call. It changes nothing, and needs no other call for the
// volume to stay away; nobody else may work on the target.
func (s *Server) Repeats(ctx context.Context, req any) (resp any, ok bool) {
	r, ok := req.(*csi.NodePublishVolumeRequest)
	if !ok {
		return nil, false
	}
	p, err := s.parsePublish(r)
	if err != nil {
		return nil, false
	}
	v, err := s.backend.Volume(ctx, p.id)
	if err != nil || p.resolveFormat(v.Format) != nil {
		return nil, false
	}
	dev, attached, err := s.lookup(ctx, p.id)
	if err != nil || !attached {
		return nil, false
	}
	defer dev.Close()
	shows := s.showsAlready
	if v.Format.Mode == volume.ModeBlock {
		shows = s.showsNodeAlready
	}
	if !shows(p, dev) {
		return nil, false
	}
	return &csi.NodePublishVolumeResponse{}, true
}
