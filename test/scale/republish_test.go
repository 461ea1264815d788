package scale

import (
	"fmt"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/test/figures"
)

// mostRepublish is what a NodePublishVolume for a published target may take, the
// longest but the slowest twentieth: where kubelet republishes, each volume gets one
// each minute or so. On a machine that does other things too, it is what the driver may
// spend on processors for it.
const mostRepublish = 5 * time.Millisecond

// again is NodePublishVolume for volume number i, which is published, with the
// serial-th tokens in both places in which kubelet may pass them.
func (s *scene) again(i, serial int) error {
	m := s.volumes[i]
	tokens := fmt.Sprintf(`{"vault":{"token":"token-%d","expirationTimestamp":"2030-01-01T00:00:00Z"}}`, serial)
	const key = "csi.storage.k8s.io/serviceAccount.tokens"
	_, err := s.driver.Node.NodePublishVolume(s.ctx, &csi.NodePublishVolumeRequest{
		VolumeId: m.id, StagingTargetPath: s.driver.StagingPath(m.id), TargetPath: s.driver.TargetPath(m.id, m.pod(), m.claim.Block),
		VolumeCapability: m.claim.Capability(),
		Secrets:          map[string]string{key: tokens},
		VolumeContext:    map[string]string{key: tokens, "csi.storage.k8s.io/pod.name": m.pod()},
	})
	return err
}

// republish publishes every volume again, as kubelet does where a CSIDriver object
// asks for it. Nothing may come of it.
func (s *scene) republish() {
	s.section("NodePublishVolume again, all volumes published")
	before := s.targets()
	s.each(len(s.volumes), func(i int) error { return s.again(i, 0) })
	s.page.Table("calls", "p50", "p95", "longest", "CPU of the driver, each")
	cpu := s.cpu()
	all := s.each(len(s.volumes), func(i int) error { return s.again(i, 1) })
	ms := figures.Milliseconds
	spent := (s.cpu() - cpu) / timesOf(len(all))
	s.page.Row("each volume once, one after another", ms(all.Median()), ms(all.Percentile(95)), ms(all.Max()), ms(spent))
	if s.plan.slack == 1 {
		s.aimBelow("NodePublishVolume of a published target, p95", mostRepublish, all.Percentile(95))
	} else {
		s.aim("NodePublishVolume of a published target, processors", "below "+ms(mostRepublish), ms(spent), spent < mostRepublish)
	}
	for path, id := range s.targets() {
		if before[path] != id {
			s.t.Errorf("after a republish mount %d is at %s, before it was %d", id, path, before[path])
		}
		delete(before, path)
	}
	for path := range before {
		s.t.Errorf("a republish unmounted %s", path)
	}
}

// targets are the mounts below kubelet's directory: their ids by path. Two mounts on
// one path fail the test.
func (s *scene) targets() map[string]int {
	s.t.Helper()
	infos, err := mount.List()
	s.must(err)
	ids := map[string]int{}
	for _, i := range infos {
		if !strings.HasPrefix(i.Path, s.box.Kubelet()+"/") {
			continue
		}
		if other, taken := ids[i.Path]; taken {
			s.t.Errorf("mounts %d and %d are both at %s", other, i.ID, i.Path)
		}
		ids[i.Path] = i.ID
	}
	return ids
}
