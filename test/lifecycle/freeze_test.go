package lifecycle

import (
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

func TestFreeze(t *testing.T) {
	s := newSite(t, 4*volume.GiB)
	s.run("a driver killed while a filesystem is frozen is forgiven at the next start", killedWhileFrozen)
	s.run("a freeze that takes too long ends, and the snapshot fails", freezeTimesOut)
	s.run("a second driver does not thaw what the first has frozen", secondDriverLeavesFrozen)
	s.run("a second driver thaws what the first died on", secondDriverThaws)
	s.run("a publish is repeated while the filesystem is frozen", publishedWhileFrozen)
}

// thawAtEnd is for a test that fails: a writer in a frozen filesystem cannot be
// killed, and neither could the test.
func (p *pod) thawAtEnd() {
	root, err := os.Open(p.target)
	p.must(err)
	p.t.Cleanup(func() {
		_ = filesystem.Thaw(root) // it is thawed already, if all went well
		_ = root.Close()
	})
}

func killedWhileFrozen(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("killed-ext4"), xfs("killed-xfs")} {
		p := s.launch(claim)
		writer := p.journal()
		p.thawAtEnd()
		s.restart("freeze/frozen=kill")
		if _, err := s.driver.Snapshot(s.ctx, claim.Name, p.id); err == nil {
			s.t.Fatal("the snapshot succeeded although the driver was to die in it")
		}
		s.must(s.driver.WaitKilled(callLimit))
		mustHang(s, writer)
		started := time.Now()
		s.driver = s.box.Start()
		ready := time.Since(started)
		s.mustGoOn(writer)
		s.t.Logf("%s: the driver was ready after %s, the writer wrote again after at most %s", claim.Name, ready, time.Since(started))
		s.mustHaveNothingUnderway()
		snap := p.snapshot(claim.Name)
		s.mustGoOn(writer)
		if _, err := workload.VerifyJournal(s.launch(p.copyOf(claim.Name+"-restored", snap)).path("journal")); err != nil {
			s.t.Error(err)
		}
	}
}

// mustHang demands that a writer is stopped.
func mustHang(s *site, writer *workload.Journal) {
	s.t.Helper()
	time.Sleep(50 * time.Millisecond) // what was in flight
	n, err := writer.Acked()
	s.must(err)
	time.Sleep(300 * time.Millisecond)
	if now, err := writer.Acked(); err != nil || now != n {
		s.t.Fatalf("the filesystem is not frozen: the writer went from %d to %d, %v", n, now, err)
	}
}

func freezeTimesOut(s *site) {
	const timeout = time.Second
	flags := s.box.Flags
	s.box.Flags = append(append([]string{}, flags...), "--freeze-timeout="+timeout.String())
	defer func() { s.box.Flags = flags }()
	p := s.launch(xfs("timeout"))
	writer := p.journal()
	p.thawAtEnd()
	s.restart("freeze/frozen=sleep:12s")
	writer.Stall()
	_, err := s.driver.Snapshot(s.ctx, "timeout", p.id)
	s.mustRefuse(err, codes.Unavailable, "took longer than 1s", "try again")
	s.mustGoOn(writer)
	stall := writer.Stall()
	if stall < timeout/2 || stall > 10*timeout { // with the fsync that followed, before the sleep is over
		s.t.Errorf("the writer was stopped for %s, the limit is %s", stall, timeout)
	}
	s.t.Logf("the writer was stopped for %s", stall)
	if left := s.snapshots(); len(left) > 0 {
		s.t.Errorf("a snapshot that failed is listed: %v", left)
	}
	s.mustHaveNothingUnderway()
	s.box.Flags = flags
	s.restart("")
	p.snapshot("timeout")
	s.mustGoOn(writer)
}

func secondDriverLeavesFrozen(s *site) {
	p := s.launch(xfs("beside"))
	writer := p.journal()
	p.thawAtEnd()
	s.restart("freeze/frozen=sleep:3s")
	answer := make(chan error, 1)
	go func() {
		_, err := s.driver.Snapshot(s.ctx, "beside", p.id)
		answer <- err
	}()
	waitStep(s, "freeze/frozen")
	second := startBeside(s)
	mustHang(s, writer)
	s.must(<-answer)
	s.mustGoOn(writer)
	second.Stop()
}

func secondDriverThaws(s *site) {
	p := s.launch(xfs("heir"))
	writer := p.journal()
	p.thawAtEnd()
	s.restart("freeze/frozen=sleep:1m")
	go func() { _, _ = s.driver.Snapshot(s.ctx, "heir", p.id) }() // it is not answered
	waitStep(s, "freeze/frozen")
	second := startBeside(s)
	mustHang(s, writer)
	s.driver.Kill()
	died := time.Now()
	s.mustGoOn(writer)
	s.t.Logf("the writer wrote again after %s", time.Since(died))
	s.driver = second
	s.mustHaveNothingUnderway()
	s.restart("") // on the usual socket
}

// publishedWhileFrozen does what kubelet does while a snapshot takes long: it publishes
// again what the pod has, and another pod's view of the volume.
func publishedWhileFrozen(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("again-ext4"), xfs("again-xfs")} {
		p := s.launch(claim)
		writer := p.journal()
		p.thawAtEnd()
		s.restart("freeze/frozen=sleep:3s")
		answer := make(chan error, 1)
		go func() {
			_, err := s.driver.Snapshot(s.ctx, claim.Name, p.id)
			answer <- err
		}()
		waitStep(s, "freeze/frozen")
		begin := time.Now()
		_, err := s.driver.Publish(s.ctx, p.id, p.name, p.claim, false)
		took := time.Since(begin)
		s.must(err)
		_, err = s.driver.Publish(s.ctx, p.id, "another", p.claim, false)
		s.mustRefuse(err, codes.Aborted, "CreateSnapshot")
		select {
		case err := <-answer:
			s.t.Fatalf("the snapshot ended too soon for this test: %v", err)
		default:
		}
		s.t.Logf("%s: answered after %s", claim.Name, took)
		s.must(<-answer)
		s.mustGoOn(writer)
	}
	s.restart("")
}
