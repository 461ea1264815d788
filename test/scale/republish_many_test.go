package scale

import (
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/figures"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// TestARepublishOfFiveHundredVolumesIsCheap publishes five hundred volumes of all kinds
// and then, one after another, each of them again, as kubelet does where a CSIDriver
// object has requiresRepublish. The times are those that kubelet would see: through the
// socket, with tokens in every request that differ from those before.
func TestARepublishOfFiveHundredVolumesIsCheap(t *testing.T) {
	roottest.Require(t)
	var page figures.Page
	s := newScene(t, plan{fsType: "btrfs", volumes: 500, slack: 4}, &page)
	s.publishAll()
	s.republish()
	t.Log("\n" + page.String())
	for _, missed := range page.Missed() {
		t.Error("missed: " + missed)
	}
	s.driver.Stop()
}

// publishAll makes and publishes all volumes, some at a time: how long that takes is not
// looked at.
func (s *scene) publishAll() {
	s.t.Helper()
	const atOnce = 4
	s.volumes = make([]member, s.plan.volumes)
	next := make(chan int)
	var group sync.WaitGroup
	begin := time.Now()
	for range atOnce {
		group.Go(func() {
			for i := range next {
				c := claim(i)
				v, err := s.driver.Create(s.ctx, c)
				if err == nil {
					s.volumes[i] = member{v.GetVolumeId(), c}
					_, err = s.driver.Start(s.ctx, v.GetVolumeId(), s.volumes[i].pod(), c, false)
				}
				if err != nil {
					s.t.Error(err)
				}
			}
		})
	}
	for i := range s.plan.volumes {
		next <- i
	}
	close(next)
	group.Wait()
	if s.t.Failed() {
		s.t.FailNow()
	}
	s.t.Logf("%d volumes are published after %s", s.plan.volumes, time.Since(begin).Round(time.Second))
}
