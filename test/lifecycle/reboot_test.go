package lifecycle

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

func TestARebootLosesNothing(t *testing.T) {
	harness.OnEachFilesystem(t, func(t *testing.T, flag string) {
		s := newSite(t, 6*volume.GiB, flag)
		live := liveThrough(s)
		s.driver.Kill()
		s.box.Reboot()
		s.driver = s.box.Start()
		live.verify()
		s.clear()
	})
	t.Run("on a disk of its own", func(t *testing.T) {
		s := &site{t: t, box: harness.NewBox(t, volume.GiB)}
		s.limit()
		disk := newDisk(s, "disk", 6*volume.GiB)
		s.pool = filepath.Join(disk.dir, "pool")
		s.must(os.Mkdir(s.pool, 0o700))
		s.box.Flags = []string{"--pool=" + s.pool}
		initPool(s, s.pool)
		s.driver = s.box.Start()
		live := liveThrough(s)
		s.driver.Kill()
		s.box.Reboot()
		disk.mount(disk.dir)
		s.driver = s.box.Start()
		live.verify()
		s.clear()
	})
}

// life is what there was before the reboot.
type life struct {
	site    *site
	pods    []*pod // with seed 2 in "data", and seed 1 in their snapshot
	snaps   []string
	growing *pod // had grown, but for its filesystem
	writer  *pod
	acked   uint64
}

// liveThrough leaves volumes of all kinds behind, in the midst of their lives.
func liveThrough(s *site) *life {
	s.t.Helper()
	l := &life{site: s}
	for _, claim := range []orchestrator.Claim{ext4("reboot-ext4"), xfs("reboot-xfs"), block("reboot-block")} {
		p := s.launch(claim)
		p.write("data", 1)
		l.snaps = append(l.snaps, p.snapshot(claim.Name))
		p.write("data", 2)
		l.pods = append(l.pods, p)
	}
	l.growing = s.launch(ext4("growing"))
	l.growing.write("data", 3)
	s.must(s.driver.Expand(s.ctx, l.growing.id, "", l.growing.claim, 300*volume.MiB))
	l.writer = s.launch(xfs("writer"))
	j, err := workload.StartJournal(l.writer.path("journal"))
	s.must(err)
	s.must(j.WaitAcked(20, writeWait))
	acked, err := j.Stop()
	s.must(err)
	l.acked = acked
	return l
}

func (l *life) verify() {
	s := l.site
	s.t.Helper()
	for _, p := range slices.Concat(l.pods, []*pod{l.growing, l.writer}) {
		p.start()
	}
	for i, p := range l.pods {
		p.verify("data", 2)
		s.launch(p.copyOf(p.claim.Name+"-restored", l.snaps[i])).verify("data", 1)
	}
	l.growing.verify("data", 3)
	l.growing.mustSee(300 * volume.MiB)
	n, err := workload.VerifyJournal(l.writer.path("journal"))
	s.must(err)
	if n != l.acked {
		s.t.Errorf("%d records were durable before the reboot, %d are there", l.acked, n)
	}
}

// initPool does what driver pool init does.
func initPool(s *site, dir string) {
	s.t.Helper()
	b, err := local.New(local.Config{
		Pools:    []local.PoolConfig{{Name: "default", Dir: dir}},
		StateDir: s.box.State(), Runner: command.New(),
	})
	s.must(err)
	s.must(b.Init(s.ctx))
	s.must(b.Close())
}
