package identityvolume

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/payload"
)

// remount mounts a published volume that somebody unmounted, with what it had. Nobody
// is asked for anything, and nothing that it has is given back: containers that run
// still see the tmpfs that it had, which cannot be reached from here any more. Of what
// was not read since the start of the driver nothing is known: that is published anew.
func (s *Server) remount(ctx context.Context, h *held, req *csi.NodePublishVolumeRequest) error {
	h.stop()
	<-h.done
	if h.orphaned != nil || len(h.files) == 0 {
		return s.publishAnew(ctx, h, req)
	}
	err := s.mount(ctx, h, h.files, payload.Set{Written: h.now(), Expires: h.end()})
	if stopping := s.start(h); stopping != nil {
		return stopping
	}
	if err != nil {
		return notFinal(fmt.Sprintf("mount volume %s of pod %s again, which somebody unmounted", h.id, h.pod), err)
	}
	h.notice(Remounted, fmt.Sprintf("somebody unmounted volume %s: it is mounted again with the files that it had; containers that run keep the old files, and see no change of them any more: restart the pod", h.id))
	s.again(h, req)
	return nil
}

// publishAnew publishes in place of h, whose refreshes have ended. A pod runs with it, so
// what would refuse a first publish refuses nothing for good, and the volume stays held.
func (s *Server) publishAnew(ctx context.Context, h *held, req *csi.NodePublishVolumeRequest) error {
	err := s.publish(ctx, h.target, req, false)
	if err == nil {
		s.closeSession(h)
		return nil
	}
	if stopping := s.start(h); stopping != nil {
		return stopping
	}
	return notFinal(fmt.Sprintf("publish volume %s of pod %s anew, which somebody unmounted", h.id, h.pod), err)
}
