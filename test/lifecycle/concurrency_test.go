package lifecycle

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

func TestConcurrency(t *testing.T) {
	s := newSite(t, 10*volume.GiB)
	s.run("32 restores of one snapshot at once", manyRestores)
	s.run("nobody who reads is turned away during snapshots and creates", readsDuringChanges)
	s.run("many pods of one volume come and go at once", manyPodsOfOneVolume)
	s.run("identical creates join", identicalCreatesJoin)
	s.run("conflicting calls on one volume succeed or are aborted", conflictingCalls)
	s.run("a call that would wait for long is aborted, a reader is not", slowCallAborts)
	s.run("a single-writer volume gets one of eight pods", singleWriter)
}

// atOnce runs n functions together and returns their errors.
func atOnce(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = fn(i) })
	}
	group.Wait()
	return errs
}

func manyRestores(s *site) {
	const callers = 32
	source := s.launch(ext4("restored"))
	source.write("data", 1)
	snap := source.snapshot("restored")
	began := time.Now()
	volumes := make([]*csi.Volume, callers)
	for _, err := range atOnce(callers, func(i int) (err error) {
		volumes[i], err = s.driver.Create(s.ctx, source.copyOf(numbered("restore", i), snap))
		return err
	}) {
		s.must(err)
	}
	s.t.Logf("%d restores took %s", callers, time.Since(began))
	for i, v := range volumes {
		p := &pod{site: s, name: numbered("pod", i), id: v.GetVolumeId(), claim: source.copyOf(numbered("restore", i), snap)}
		s.pods = append(s.pods, p)
	}
	for i, err := range atOnce(callers, func(i int) error {
		p := s.pods[i+1]
		target, err := s.driver.Start(s.ctx, p.id, p.name, p.claim, false)
		if err != nil {
			return err
		}
		return workload.Verify(filepath.Join(target, "data"), 1, dataSize)
	}) {
		if err != nil {
			s.t.Errorf("restore %d: %v", i, err)
		}
	}
}

// reads are the calls that change nothing.
func (p *pod) reads() map[string]func() error {
	c := p.driver.Controller
	return map[string]func() error{
		"stats": func() error {
			_, err := p.driver.Node.NodeGetVolumeStats(p.ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: p.id, VolumePath: p.target})
			return err
		},
		"volumes": func() error {
			_, err := c.ListVolumes(p.ctx, &csi.ListVolumesRequest{})
			return err
		},
		"snapshots": func() error {
			_, err := c.ListSnapshots(p.ctx, &csi.ListSnapshotsRequest{})
			return err
		},
		"volume": func() error {
			_, err := c.ControllerGetVolume(p.ctx, &csi.ControllerGetVolumeRequest{VolumeId: p.id})
			return err
		},
		"capacity": func() error {
			_, err := c.GetCapacity(p.ctx, &csi.GetCapacityRequest{})
			return err
		},
		"probe": func() error {
			_, err := p.driver.Identity.Probe(p.ctx, &csi.ProbeRequest{})
			return err
		},
	}
}

func readsDuringChanges(s *site) {
	p := s.launch(xfs("read"))
	writer := p.journal()
	changing, done := context.WithCancel(s.ctx)
	var group sync.WaitGroup
	for name, read := range p.reads() {
		group.Go(func() {
			var slowest time.Duration
			n := 0
			for ; changing.Err() == nil; n++ {
				began := time.Now()
				if err := read(); err != nil {
					s.t.Errorf("%s: %v", name, err)
					return
				}
				slowest = max(slowest, time.Since(began))
				time.Sleep(time.Millisecond)
			}
			s.t.Logf("%s: %d times, slowest %s", name, n, slowest)
		})
	}
	for i := range 10 {
		snap := p.snapshot(numbered("read", i))
		c := s.create(p.copyOf(numbered("read", i), snap))
		s.must(s.driver.Delete(s.ctx, c.id))
		c.forget()
		s.must(s.driver.DeleteSnapshot(s.ctx, snap))
	}
	done()
	group.Wait()
	s.mustGoOn(writer)
}

func manyPodsOfOneVolume(s *site) {
	const pods, rounds = 16, 5
	for _, claim := range []orchestrator.Claim{xfs("crowd-xfs"), block("crowd-block")} {
		p := s.launch(claim)
		p.write("data", 1)
		for _, err := range atOnce(pods, func(i int) error {
			name := numbered("crowd", i)
			for range rounds {
				target, err := s.driver.Publish(s.ctx, p.id, name, claim, i%2 == 1)
				if err != nil {
					return fmt.Errorf("publish to %s: %w", name, err)
				}
				data := target
				if !claim.Block {
					data = filepath.Join(target, "data")
				}
				if err := workload.Verify(data, 1, dataSize); err != nil {
					return err
				}
				if err := s.driver.Unpublish(s.ctx, p.id, name, claim); err != nil {
					return fmt.Errorf("unpublish from %s: %w", name, err)
				}
			}
			return nil
		}) {
			s.must(err)
		}
		p.verify("data", 1)
	}
}

func identicalCreatesJoin(s *site) {
	met := len(s.driver.Steps())
	volumes := make([]*csi.Volume, 16)
	for _, err := range atOnce(len(volumes), func(i int) (err error) {
		volumes[i], err = s.driver.Create(s.ctx, ext4("same"))
		return err
	}) {
		s.must(err)
	}
	for _, v := range volumes {
		if v.GetVolumeId() != volumes[0].GetVolumeId() {
			s.t.Errorf("two volumes for one name: %s and %s", v.GetVolumeId(), volumes[0].GetVolumeId())
		}
	}
	made := 0
	for _, step := range s.driver.Steps()[met:] {
		if step == "create-volume/renamed" {
			made++
		}
	}
	if made != 1 {
		s.t.Errorf("the volume was made %d times", made)
	}
	s.create(ext4("same"))
}

// conflictingCalls lets callers loose on one volume that is in use.
func conflictingCalls(s *site) {
	const callers, calls = 8, 12
	p := s.launch(xfs("contested"))
	p.write("data", 1)
	writer := p.journal()
	var mu sync.Mutex
	counts := map[codes.Code]int{}
	for _, err := range atOnce(callers, func(i int) error {
		for j := range calls {
			err := p.contend(fmt.Sprintf("%d-%d", i, j), rand.IntN(6))
			mu.Lock()
			counts[status.Code(err)]++
			mu.Unlock()
			switch status.Code(err) {
			case codes.OK, codes.Aborted:
			case codes.ResourceExhausted, codes.OutOfRange: // chance made more clones than the pool can promise
			default:
				return err
			}
		}
		return nil
	}) {
		s.must(err)
	}
	s.t.Logf("answers: %v", counts)
	s.mustGoOn(writer)
	p.verify("data", 1)
	// What the callers made and nobody keeps; all of it is charged to the pool.
	for _, id := range s.volumes() {
		if id != p.id {
			s.must(s.driver.Delete(s.ctx, id))
		}
	}
	if snaps := s.snapshots(); len(snaps) > 0 {
		c := s.launch(p.copyOf("contested-restored", snaps[0]))
		c.verify("data", 1)
		_, err := workload.VerifyJournal(c.path("journal"))
		s.must(err)
	}
	p.mustSee(p.size())
}

// contend makes one of the calls that conflict.
func (p *pod) contend(name string, which int) error {
	switch which {
	case 0:
		_, err := p.driver.Snapshot(p.ctx, "contested-"+name, p.id)
		return err
	case 1:
		_, err := p.driver.Create(p.ctx, p.cloneOf("contested-"+name))
		return err
	case 2:
		return p.driver.Expand(p.ctx, p.id, p.name, p.claim, p.claim.Size+volume.Bytes(rand.IntN(100))*volume.MiB)
	case 3:
		return p.driver.Stage(p.ctx, p.id, p.claim)
	case 4:
		_, err := p.driver.Publish(p.ctx, p.id, p.name, p.claim, false)
		return err
	default:
		if _, err := p.driver.Publish(p.ctx, p.id, "contender-"+name, p.claim, true); err != nil {
			return err
		}
		return p.driver.Unpublish(p.ctx, p.id, "contender-"+name, p.claim)
	}
}

func slowCallAborts(s *site) {
	p := s.launch(ext4("slow"))
	s.restart("create-snapshot/filled=sleep:10s")
	answers := make(chan error, 2)
	for range 2 { // the second joins the first
		go func() {
			_, err := s.driver.Snapshot(s.ctx, "slow", p.id)
			answers <- err
		}()
	}
	waitStep(s, "create-snapshot/filled")
	for name, call := range map[string]func() error{
		"expand": func() error { return s.driver.Expand(s.ctx, p.id, p.name, p.claim, 2*p.claim.Size) },
		"publish": func() error {
			_, err := s.driver.Publish(s.ctx, p.id, "other", p.claim, false)
			return err
		},
	} {
		began := time.Now()
		s.mustRefuse(call(), codes.Aborted, "CreateSnapshot", "slow", "try again")
		s.t.Logf("%s was turned away after %s", name, time.Since(began))
	}
	began := time.Now()
	for _, read := range p.reads() {
		s.must(read())
	}
	if took := time.Since(began); took > 5*time.Second {
		s.t.Errorf("the reads took %s", took)
	}
	select {
	case err := <-answers:
		s.t.Fatalf("the snapshot was faster than all this: %v", err)
	default:
	}
	s.must(<-answers)
	s.must(<-answers)
	if ids := s.snapshots(); len(ids) != 1 {
		s.t.Errorf("%d snapshots of one name", len(ids))
	}
	s.restart("")
}

func singleWriter(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("single-ext4"), block("single-block")} {
		claim.AccessMode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		p := s.create(claim)
		s.must(s.driver.Stage(s.ctx, p.id, claim))
		won := 0
		for i, err := range atOnce(8, func(i int) error {
			_, err := s.driver.Publish(s.ctx, p.id, numbered("single", i), claim, false)
			return err
		}) {
			if err == nil {
				won++
				p.name = numbered("single", i)
				continue
			}
			s.mustRefuse(err, codes.FailedPrecondition, "SINGLE_NODE_SINGLE_WRITER", "unpublish it there first")
		}
		if won != 1 {
			s.t.Errorf("%d of 8 pods got the volume", won)
		}
		s.must(s.driver.Unpublish(s.ctx, p.id, p.name, claim))
		_, err := s.driver.Publish(s.ctx, p.id, "next", claim, false)
		s.must(err)
		p.name = "next"
	}
}
