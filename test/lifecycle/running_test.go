package lifecycle

import (
	"context"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

func TestRestart(t *testing.T) {
	s := newSite(t, 4*volume.GiB)
	s.run("writers go on while the driver is away, and the next one takes over", writersOutliveTheDriver)
	s.run("a call in flight gets its answer", stopDrains)
	s.run("a second driver waits for the pool until the first stops", secondDriverWaits)
	s.run("a second driver on the same socket is refused", secondOnOneSocket)
}

func writersOutliveTheDriver(s *site) {
	var pods []*pod
	var writers []*workload.Journal
	for _, claim := range []orchestrator.Claim{ext4("alive-ext4"), xfs("alive-xfs")} {
		p := s.launch(claim)
		pods, writers = append(pods, p), append(writers, p.journal())
	}
	blk := s.launch(block("alive-block"))
	s.driver.Stop()
	for _, w := range writers {
		s.mustGoOn(w)
	}
	blk.write("", 1)
	blk.verify("", 1)
	s.driver = s.box.Start()
	for i, p := range pods {
		p.mustSee(p.claim.Size)
		before, err := writers[i].Acked()
		s.must(err)
		snap := p.snapshot(p.claim.Name)
		s.mustGoOn(writers[i])
		restored := s.launch(p.copyOf(p.claim.Name+"-restored", snap))
		if n, err := workload.VerifyJournal(restored.path("journal")); err != nil || n < before {
			s.t.Errorf("a snapshot by the new driver has %d of %d records: %v", n, before, err)
		}
	}
	s.must(s.driver.Expand(s.ctx, pods[1].id, pods[1].name, pods[1].claim, 500*volume.MiB))
	pods[1].mustSee(500 * volume.MiB)
	for i, w := range writers {
		s.mustGoOn(w)
		s.t.Logf("%s: longest stall of the writer: %s", pods[i].claim.Name, w.Stall())
	}
}

func stopDrains(s *site) {
	s.restart("create-volume/filled=sleep:2s")
	claim := ext4("drained")
	answer := make(chan error, 1)
	go func() {
		_, err := s.driver.Create(s.ctx, claim)
		answer <- err
	}()
	waitStep(s, "create-volume/filled")
	s.must(syscall.Kill(s.driver.PID(), syscall.SIGTERM))
	select {
	case err := <-answer:
		s.must(err)
	case <-time.After(callLimit):
		s.t.Fatal("no answer")
	}
	s.must(s.driver.WaitKilled(callLimit))
	s.driver = s.box.Start()
	s.create(claim) // finds it
	if n := len(s.volumes()); n != 1 {
		s.t.Errorf("there are %d volumes", n)
	}
}

// waitStep waits until the driver is at a failpoint.
func waitStep(s *site, step string) {
	s.t.Helper()
	for end := time.Now().Add(callLimit); !slices.Contains(s.driver.Steps(), step); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("the driver does not come to %s\n%s", step, s.log())
		}
	}
}

// startBeside starts a second driver on the same pool and state, with a socket of
// its own.
func startBeside(s *site) *harness.Driver {
	s.t.Helper()
	box := *s.box
	socket := filepath.Join(box.Dir, "second.sock")
	box.Flags = append(slices.Clone(box.Flags), "--endpoint=unix://"+socket)
	d, err := box.TryStart("")
	s.must(err)
	// TryStart has found the first driver's socket.
	s.must(d.Close())
	ctx, cancel := context.WithTimeout(s.ctx, callLimit)
	defer cancel()
	d.Client, err = orchestrator.Dial(ctx, socket, box.Kubelet())
	s.must(err)
	return d
}

func secondDriverWaits(s *site) {
	p := s.launch(xfs("shared"))
	writer := p.journal()
	second := startBeside(s)
	_, err := second.Create(s.ctx, ext4("by-the-second"))
	s.mustRefuse(err, codes.Unavailable, "another driver")
	s.mustRefuse(second.Delete(s.ctx, p.id), codes.Unavailable, "another driver")
	_, err = second.Snapshot(s.ctx, "by-the-second", p.id)
	s.mustRefuse(err, codes.Unavailable, "another driver")
	resp, err := second.Controller.GetCapacity(s.ctx, &csi.GetCapacityRequest{})
	s.must(err)
	if resp.GetAvailableCapacity() != 0 {
		s.t.Errorf("a pool that is not its own has room for %d bytes", resp.GetAvailableCapacity())
	}
	s.create(ext4("by-the-first"))

	s.driver.Stop()
	stopped := time.Now()
	s.driver = second
	for {
		if _, err = second.Snapshot(s.ctx, "taken-over", p.id); err == nil || time.Since(stopped) > callLimit {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.must(err)
	s.t.Logf("taken over after %s", time.Since(stopped))
	s.mustGoOn(writer)
	s.driver.Stop()
	s.driver = s.box.Start()
}

func secondOnOneSocket(s *site) {
	second, err := s.box.TryStart("")
	if err == nil {
		// It was the first one that answered.
		err = second.WaitKilled(callLimit)
		s.must(err)
	}
	if want := "another process answers on socket"; !slices.ContainsFunc(splitLines(second.Log()), has(want)) {
		s.t.Errorf("the second driver does not say %q:\n%s", want, second.Log())
	}
	s.create(ext4("undisturbed"))
}
