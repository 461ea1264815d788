package scale

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/figures"
)

// The aims of issue 4, and those that its words leave to us.
const (
	mostStart        = 2 * time.Second
	mostStartMounted = 10 * time.Second
	// mostStall is what no writer notices who waits for a disk now and then.
	mostStall    = time.Second
	mostCapacity = 20 * time.Millisecond
	mostPage     = 20 * time.Millisecond
	mostScrape   = 500 * time.Millisecond
	mostStats    = 50 * time.Millisecond
	// mostStatsCPU is what one call may cost: at kubelet's pace, a thousand volumes
	// take less than two hundredths of one core.
	mostStatsCPU = time.Millisecond
	// mostIdle is what the driver may take of one core to watch what it has.
	mostIdle = 0.1
)

func (s *scene) aimBelow(what string, want, have time.Duration) {
	want *= time.Duration(s.plan.slack)
	s.aim(what, "below "+figures.Milliseconds(want), figures.Milliseconds(have), have < want)
}

// killAndStart kills the driver and starts another one. The time is from the start
// of the process until Probe says that it is ready.
func (s *scene) killAndStart() time.Duration {
	s.t.Helper()
	s.driver.Kill()
	return s.start()
}

func (s *scene) start() time.Duration {
	s.t.Helper()
	begin := time.Now()
	s.driver = s.box.Start()
	return time.Since(begin)
}

// restart starts the driver again and again with nothing mounted: killed, and
// after a stop of the machine.
func (s *scene) restart() {
	s.section("Start, nothing mounted")
	var killed, booted figures.Samples
	for range s.plan.restarts {
		killed = append(killed, s.killAndStart())
	}
	var mounts figures.Samples
	for range s.plan.restarts {
		s.driver.Stop()
		s.unmountDisk()
		mounts = append(mounts, s.timed(func() error { s.mountDisk(); return nil }))
		booted = append(booted, s.start())
	}
	s.page.Line("")
	s.page.Line("From the start of the process until Probe says ready.")
	s.page.Table("start", "p50", "longest")
	s.page.Row("after a kill", figures.Milliseconds(killed.Median()), figures.Milliseconds(killed.Max()))
	s.page.Row("after a stop and a new mount of the pool, nothing in the kernel's caches", figures.Milliseconds(booted.Median()), figures.Milliseconds(booted.Max()))
	s.page.Row("that mount itself, which is not the driver's", figures.Milliseconds(mounts.Median()), figures.Milliseconds(mounts.Max()))
	s.aimBelow("start after a kill, longest", mostStart, killed.Max())
	s.aimBelow("start with cold caches, longest", mostStart, booted.Max())
	s.must(s.countVolumes(0))
	s.must(s.countSnapshots(0))
	s.memory("after a start")
}

// restartMounted kills the driver while volumes are mounted and writers write.
func (s *scene) restartMounted() {
	s.section(fmt.Sprintf("Start with %d volumes mounted", s.plan.mounted))
	in := s.volumes[:s.plan.mounted]
	targets := make([]string, len(in))
	for i, m := range in {
		target, err := s.driver.Start(s.ctx, m.id, m.pod(), m.claim, false)
		s.must(err)
		targets[i] = target
	}
	journals := s.startWriters(in, targets)
	before := longestStall(journals, 3*time.Second)
	var starts, stalls figures.Samples
	for range s.plan.restarts {
		starts = append(starts, s.killAndStart())
		stalls = append(stalls, longestStall(journals, 500*time.Millisecond))
	}
	var snaps figures.Samples
	longestStall(journals, 0)
	for i := range 20 {
		name := fmt.Sprintf("mounted-%d", i)
		var id string
		snaps = append(snaps, s.timed(func() error {
			snap, err := s.driver.Snapshot(s.ctx, name, in[i].id)
			id = snap.GetSnapshotId()
			return err
		}))
		s.must(s.driver.DeleteSnapshot(s.ctx, id))
	}
	frozen := longestStall(journals, 0)
	for i, j := range journals {
		acked, err := j.Stop()
		s.must(err)
		if acked == 0 {
			s.t.Errorf("writer %d wrote nothing", i)
		}
	}
	for i, m := range in {
		s.must(s.verifyJournal(i, m, targets[i]))
		s.must(s.driver.Client.Stop(s.ctx, m.id, m.pod(), m.claim))
	}
	ms := figures.Milliseconds
	s.page.Line("")
	s.page.Line("%d writers, on all kinds of volumes, append a record of 4 KiB and sync it every 5 ms. The stall is the longest time", len(journals))
	s.page.Line("between two synced records of any of them.")
	s.page.Table("what", "p50", "longest")
	s.page.Row("start after a kill", ms(starts.Median()), ms(starts.Max()))
	s.page.Row("stall of a writer, nothing happens for 3 s", "-", ms(before))
	s.page.Row("stall of a writer while the driver is killed and starts", ms(stalls.Median()), ms(stalls.Max()))
	s.page.Row("CreateSnapshot of mounted volumes, half of them written to", ms(snaps.Median()), ms(snaps.Max()))
	s.page.Row("stall of a writer meanwhile", "-", ms(frozen))
	s.aimBelow(fmt.Sprintf("start with %d mounted, longest", s.plan.mounted), mostStartMounted, starts.Max())
	s.aimBelow("stall of a writer while the driver is killed and starts", mostStall, stalls.Max())
	s.memory("after a start with volumes mounted")
}

// writers is how many of the mounted volumes are written to: the first ten are of
// all kinds.
const writers = 10

func (s *scene) startWriters(in []member, targets []string) []*workload.Journal {
	s.t.Helper()
	const pause = 5 * time.Millisecond
	var out []*workload.Journal
	for i, m := range in[:writers] {
		var j *workload.Journal
		var err error
		if m.claim.Block {
			j, err = workload.StartPacedJournalAt(targets[i], 0, pause)
		} else {
			j, err = workload.StartPacedJournal(filepath.Join(targets[i], "journal"), pause)
		}
		s.must(err)
		s.must(j.WaitAcked(10, 10*time.Second))
		out = append(out, j)
	}
	longestStall(out, 0) // what came before does not count
	return out
}

// longestStall waits and gives the longest stall of any writer since it was asked
// for last.
func longestStall(journals []*workload.Journal, wait time.Duration) time.Duration {
	time.Sleep(wait)
	var longest time.Duration
	for _, j := range journals {
		longest = max(longest, j.Stall())
	}
	return longest
}

func (s *scene) verifyJournal(i int, m member, target string) error {
	if i >= writers {
		return nil
	}
	var n uint64
	var err error
	if m.claim.Block {
		n, err = workload.VerifyJournalAt(target, 0)
	} else {
		n, err = workload.VerifyJournal(filepath.Join(target, "journal"))
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("the journal of %s is empty", m.claim.Name)
	}
	return err
}

// timesOf makes a count of calls something to divide a duration by.
func timesOf(n int) time.Duration { return time.Duration(n) }
