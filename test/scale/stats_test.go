package scale

import (
	"fmt"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/figures"
)

// stageAll mounts every volume, one after another.
func (s *scene) stageAll() {
	s.section("Calls while all volumes are being mounted")
	s.edgesTable()
	s.nodeEdges("NodeStageVolume", s.each(len(s.volumes), func(i int) error {
		return s.driver.Stage(s.ctx, s.volumes[i].id, s.volumes[i].claim)
	}))
	s.nodeEdges("NodePublishVolume", s.each(len(s.volumes), func(i int) error {
		m := s.volumes[i]
		_, err := s.driver.Publish(s.ctx, m.id, m.pod(), m.claim, false)
		return err
	}))
	s.memory("with all volumes mounted")
	s.page.Line("")
	s.page.Line("With all of them mounted, the driver starts after a kill in %s.", figures.Milliseconds(s.killAndStart()))
}

// ask is NodeGetVolumeStats for volume number i.
func (s *scene) ask(i int) error {
	m := s.volumes[i]
	resp, err := s.driver.Node.NodeGetVolumeStats(s.ctx, &csi.NodeGetVolumeStatsRequest{
		VolumeId: m.id, VolumePath: s.driver.TargetPath(m.id, m.pod(), m.claim.Block),
	})
	if err != nil {
		return err
	}
	total, size := resp.GetUsage()[0].GetTotal(), int64(m.claim.Size)
	if total > size || total < size*7/10 {
		return fmt.Errorf("%s has %d bytes and shows %d", m.claim.Name, size, total)
	}
	return nil
}

// stats asks for the statistics of all volumes, at kubelet's pace and all at once.
func (s *scene) stats() {
	s.section("NodeGetVolumeStats, all volumes mounted")
	n := len(s.volumes)
	s.page.Table("calls", "p50", "p99", "longest", "CPU of the driver, each", "share of one core")
	row := func(what string, all figures.Samples, cpu, took time.Duration) {
		ms := figures.Milliseconds
		s.page.Row(what, ms(all.Median()), ms(all.Percentile(99)), ms(all.Max()), ms(cpu/timesOf(n)), fmt.Sprintf("%.1f %%", 100*cpu.Seconds()/took.Seconds()))
	}
	// The first call for each volume since the start looks for its device.
	s.each(n, s.ask)
	idle := s.idle()
	s.page.Row("none", "-", "-", "-", "-", fmt.Sprintf("%.1f %%", 100*idle))
	tick := time.NewTicker(s.plan.round / timesOf(n))
	defer tick.Stop()
	var all figures.Samples
	before, begin := s.cpu(), time.Now()
	for i := range n {
		<-tick.C
		all = append(all, s.timed(func() error { return s.ask(i) }))
	}
	cpu, took := s.cpu()-before, time.Since(begin)
	row(fmt.Sprintf("each volume once in %s", s.plan.round), all, cpu, took)
	s.aimBelow("NodeGetVolumeStats, p99", mostStats, all.Percentile(99))
	own := max(0, cpu-time.Duration(idle*float64(took))) / timesOf(n)
	s.aimBelow("NodeGetVolumeStats, CPU of the driver beyond what it takes without", mostStatsCPU, own)
	s.aim("CPU of the driver that nobody calls, all volumes mounted", fmt.Sprintf("below %.0f %% of one core", 100*mostIdle), fmt.Sprintf("%.1f %%", 100*idle), idle < mostIdle)

	before, begin = s.cpu(), time.Now()
	burst, err := s.parallel(32, n, s.ask)
	s.must(err)
	row("each volume once, 32 at a time", burst, s.cpu()-before, time.Since(begin))
	s.memory("after the statistics")
}

// idle is the share of one core that the driver takes while nobody calls it: what it
// watches by itself, over a round.
func (s *scene) idle() float64 {
	s.t.Helper()
	before := s.cpu()
	time.Sleep(s.plan.round)
	return (s.cpu() - before).Seconds() / s.plan.round.Seconds()
}

// parallel does something n times with this many callers and gives the times.
func (s *scene) parallel(callers, n int, fn func(i int) error) (figures.Samples, error) {
	var mu sync.Mutex
	var all figures.Samples
	var failed error
	next := make(chan int)
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for i := range next {
				start := time.Now()
				err := fn(i)
				took := time.Since(start)
				mu.Lock()
				all = append(all, took)
				if err != nil && failed == nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
	return all, failed
}
