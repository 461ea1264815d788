package lifecycle

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// TestGuard drives an overcommitted pool full under pods, with the watchdog beside
// the driver, and kills the driver while the pods' filesystems are frozen.
func TestGuard(t *testing.T) {
	s := &site{t: t, box: harness.NewBox(t, 1280*volume.MiB)}
	s.box.Flags = append(s.box.Flags, "--overcommit=10")
	s.pool = filepath.Join(s.box.Pools(), "pool")
	s.limit()
	for _, dir := range []string{s.box.Kubelet(), s.box.Pools()} {
		share(s, dir)
	}
	s.driver = s.box.Start()
	s.box.StartWatchdog(watchdogTimeout)
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		s.run("a driver killed while a full pool is frozen finds it frozen, "+string(fsType), func(s *site) { killedWhilePoolIsFull(s, fsType) })
	}
}

func killedWhilePoolIsFull(s *site, fsType volume.FSType) {
	const spareSize = 300 * volume.MiB
	s.restart("") // for a log of its own
	spare := s.launch(orchestrator.Claim{Name: "spare-" + string(fsType), Size: 2 * spareSize, FSType: volume.Ext4})
	s.must(workload.Write(spare.path("data"), 1, spareSize, true))
	p := s.launch(orchestrator.Claim{Name: "full-" + string(fsType), Size: 6 * volume.GiB, FSType: fsType})
	f := workload.StartFill(p.target, workload.Buffered)
	p.thawAtEnd()
	s.mustWarn("GuardFroze")
	mustStop(s, f)
	s.driver.Kill()
	mustStop(s, f)
	time.Sleep(2 * watchdogTimeout) // nor does the watchdog thaw
	mustStop(s, f)
	s.driver = s.box.Start()
	mustStop(s, f)
	before, _ := f.Files()
	// Its filesystem is frozen too, and nobody writes to it.
	start := time.Now()
	spare.retire()
	for end := time.Now().Add(writeWait); ; time.Sleep(5 * time.Millisecond) {
		n, err := f.Files()
		s.must(err)
		if n > before {
			break
		}
		if time.Now().After(end) {
			s.t.Fatalf("the writer does not go on:\n%s", s.log())
		}
	}
	s.t.Logf("%s: the writer went on %s after its neighbour began to go", fsType, time.Since(start))
	files, err := f.Stop()
	s.must(err)
	s.must(workload.VerifyFill(p.target, workload.Buffered, files))
}

// mustStop demands that a writer is stopped and met no error.
func mustStop(s *site, f *workload.Filler) {
	s.t.Helper()
	time.Sleep(500 * time.Millisecond) // what was under way
	before, err := f.Files()
	s.must(err)
	time.Sleep(300 * time.Millisecond)
	if n, err := f.Files(); err != nil || n != before {
		s.t.Fatalf("the writer goes on in a full pool: from %d files to %d, %v\n%s", before, n, err, s.log())
	}
}
