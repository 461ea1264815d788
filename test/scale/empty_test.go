package scale

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/figures"
)

// empty ends all pods and deletes everything, with one pod that goes on writing,
// and demands that nothing is left.
func (s *scene) empty() {
	s.section("Calls while the pool is emptied")
	s.edgesTable()
	rest := s.volumes[1:]
	witness := s.volumes[0] // an ext4
	s.nodeEdges("NodeUnpublishVolume", s.each(len(rest), func(i int) error {
		return s.driver.Unpublish(s.ctx, rest[i].id, rest[i].pod(), rest[i].claim)
	}))
	s.nodeEdges("NodeUnstageVolume", s.each(len(rest), func(i int) error { return s.driver.Unstage(s.ctx, rest[i].id) }))

	journal, err := workload.StartPacedJournal(filepath.Join(s.driver.TargetPath(witness.id, witness.pod(), false), "witness"), 5*time.Millisecond)
	s.must(err)
	s.must(journal.WaitAcked(10, 10*time.Second))
	alone := s.neighbour(context.Background(), 20)
	journal.Stall()
	time.Sleep(3 * time.Second)
	stallAlone := journal.Stall()

	busy, stop := context.WithCancel(s.ctx)
	beside := make(chan figures.Samples)
	go func() { beside <- s.neighbour(busy, 1<<20) }()
	s.edges("DeleteSnapshot", s.each(len(s.snapshots), func(i int) error { return s.driver.DeleteSnapshot(s.ctx, s.snapshots[i]) }))
	s.edges("DeleteVolume", s.each(len(rest), func(i int) error { return s.driver.Delete(s.ctx, rest[i].id) }))
	stop()
	meanwhile := <-beside
	stall := journal.Stall()
	_, err = journal.Stop()
	s.must(err)
	inTrash := s.trash()
	begin := time.Now()
	started := s.killAndStart()
	for s.trash() > 0 {
		if time.Since(begin) > 2*time.Minute {
			s.t.Fatalf("%d entries are still in the trash\n%s", s.trash(), s.driver.Log())
		}
		time.Sleep(5 * time.Millisecond)
	}
	freed := time.Since(begin)
	s.must(s.driver.Client.Stop(s.ctx, witness.id, witness.pod(), witness.claim))
	s.must(s.driver.Delete(s.ctx, witness.id))

	ms := figures.Milliseconds
	s.page.Line("")
	s.page.Line("Meanwhile somebody else makes and deletes raw block volumes, and a pod appends records of 4 KiB, one every 5 ms.")
	s.page.Table("what", "before", "while everything is deleted")
	s.page.Row("CreateVolume and DeleteVolume of somebody else, p50", ms(alone.Median()), ms(meanwhile.Median()))
	s.page.Row("the same, p99", ms(alone.Percentile(99)), ms(meanwhile.Percentile(99)))
	s.page.Row("stall of the writer", ms(stallAlone), ms(stall))
	s.page.Line("")
	s.page.Line("After the last delete %d entries were in the trash. The driver was killed then, started in %s, and the trash was", inTrash, ms(started))
	s.page.Line("empty %s after the kill.", ms(freed))
	s.aimBelow("stall of a writer while everything is deleted", mostStall, stall)
	s.aimBelow("start while the trash is being emptied", mostStart, started)
	s.memory("at the end")
	s.mustHaveNothing()
}

// neighbour makes and deletes a volume n times, or until ctx ends.
func (s *scene) neighbour(ctx context.Context, n int) figures.Samples {
	var out figures.Samples
	for i := 0; i < n && ctx.Err() == nil; i++ {
		begin := time.Now()
		c := claim(9)
		c.Name = fmt.Sprintf("neighbour-%d", i)
		v, err := s.driver.Create(s.ctx, c)
		if err == nil {
			err = s.driver.Delete(s.ctx, v.GetVolumeId())
		}
		if err != nil {
			s.t.Errorf("beside all this: %v", err)
			return out
		}
		out = append(out, time.Since(begin))
		time.Sleep(20 * time.Millisecond)
	}
	return out
}

// trash is how many entries wait for their end.
func (s *scene) trash() int {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.disk, ".trash"))
	s.must(err)
	return len(entries)
}

// mustHaveNothing demands that the driver and the pool are as they were before.
func (s *scene) mustHaveNothing() {
	s.t.Helper()
	const patience = 30 * time.Second
	var now trace
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		now = s.observe()
		if s.trash() == 0 && s.isAsBefore(now) || time.Now().After(end) {
			break
		}
	}
	if n := s.trash(); n > 0 {
		s.t.Errorf("%d entries are left in the trash", n)
	}
	if !s.isAsBefore(now) {
		s.t.Errorf("the empty pool and its driver had %+v, after everything was deleted %+v", s.before, now)
	}
	for _, dir := range []string{"volumes", "snapshots", ".staging", ".quarantine"} {
		entries, err := os.ReadDir(filepath.Join(s.disk, dir))
		s.must(err)
		if len(entries) > 0 {
			s.t.Errorf("%d entries are left in %s, such as %s", len(entries), dir, entries[0].Name())
		}
	}
	vols, err := s.driver.Controller.ListVolumes(s.ctx, &csi.ListVolumesRequest{})
	s.must(err)
	snaps, err := s.driver.Controller.ListSnapshots(s.ctx, &csi.ListSnapshotsRequest{})
	s.must(err)
	if n, m := len(vols.GetEntries()), len(snaps.GetEntries()); n > 0 || m > 0 {
		s.t.Errorf("%d volumes and %d snapshots are still listed", n, m)
	}
	s.page.Line("")
	s.page.Line("At the end the driver has %d descriptors, the machine %d loop devices and %d mounts of the run, and %s of the pool are used;",
		now.descriptors, now.loops, now.mounts, inMiB(now.used))
	s.page.Line("before the first volume it was %d, %d, %d and %s.", s.before.descriptors, s.before.loops, s.before.mounts, inMiB(s.before.used))
	s.driver.Stop()
}

// isAsBefore allows for descriptors of connections that come and go, and for
// metadata that the pool's filesystem keeps in reserve.
func (s *scene) isAsBefore(now trace) bool {
	const (
		descriptors = 4
		metadata    = 64 * volume.MiB
	)
	return now.loops == s.before.loops && now.mounts == s.before.mounts &&
		now.descriptors <= s.before.descriptors+descriptors && now.used < s.before.used+metadata
}
