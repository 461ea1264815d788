package lifecycle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

const (
	dataSize = 4 * volume.MiB
	// callLimit is more than any call may take, so that a test that hangs says
	// where.
	callLimit = time.Minute
	writeWait = 10 * time.Second
)

// site is a machine: a box, the driver that runs in it now, and the pods on it.
type site struct {
	t      *testing.T // of the part that is running
	ctx    context.Context
	box    *harness.Box
	driver *harness.Driver
	pods   []*pod // whose volumes exist
	pool   string // the directory of the pool "default"
}

// newSite makes a machine with the pool "default" of this size, and starts its
// driver, with more flags.
func newSite(t *testing.T, poolSize volume.Bytes, flags ...string) *site {
	t.Helper()
	s := &site{t: t, box: harness.NewBox(t, poolSize, flags...)}
	s.pool = filepath.Join(s.box.Pools(), "pool")
	s.limit()
	s.driver = s.box.Start()
	return s
}

// limit gives the calls of this part their time, those at its end included.
func (s *site) limit() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*callLimit)
	s.t.Cleanup(cancel)
	s.ctx = ctx
}

// run runs a part of a test on this machine. All that it makes goes at its end,
// through the driver: that this works is a part of every test.
func (s *site) run(name string, part func(*site)) {
	s.t.Run(name, func(t *testing.T) {
		t.Helper()
		outer := *s
		s.t = t
		t.Cleanup(func() { s.t, s.ctx = outer.t, outer.ctx })
		s.limit()
		t.Cleanup(func() {
			if !t.Failed() {
				s.clear()
			}
		})
		part(s)
	})
	if s.t.Failed() {
		s.t.FailNow() // the next part would find what this one left
	}
}

// clear ends all pods and deletes all volumes and snapshots.
func (s *site) clear() {
	for _, p := range slices.Clone(s.pods) {
		p.retire()
	}
	for _, id := range s.snapshots() {
		s.must(s.driver.DeleteSnapshot(s.ctx, id))
	}
	if left := s.volumes(); len(left) > 0 {
		s.t.Errorf("volumes that no pod has: %v", left)
	}
	s.mustHaveNothingUnderway()
	s.mustEmptyTrash()
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.log())
	}
}

// log is the end of what the driver has logged, without what changed nothing.
func (s *site) log() string {
	const most = 12
	lines := slices.DeleteFunc(strings.Split(s.driver.Log(), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "failpoint ") || strings.Contains(line, "level=DEBUG")
	})
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// mustRefuse demands an error with this code whose text has all these words.
func (s *site) mustRefuse(err error, code codes.Code, words ...string) {
	s.t.Helper()
	if status.Code(err) != code {
		s.t.Fatalf("want %s, got: %v\n%s", code, err, s.log())
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			s.t.Errorf("the error does not speak of %q: %v", w, err)
		}
	}
}

// mustWarn demands that the driver says this in its log, soon.
func (s *site) mustWarn(words string) {
	s.t.Helper()
	for end := time.Now().Add(writeWait); !strings.Contains(s.driver.Log(), words); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("the log does not speak of %q:\n%s", words, s.log())
		}
	}
}

// restart stops the driver and starts one with a failpoint.
func (s *site) restart(failpoint string) {
	s.t.Helper()
	s.driver.Stop()
	s.driver = s.box.StartWith(failpoint)
}

// image is the image of a volume.
func (s *site) image(id string) string {
	return filepath.Join(s.pool, "volumes", id, "data/disk.img")
}

// pod is a pod with a volume of its own.
type pod struct {
	*site
	name   string
	id     string // of the volume
	claim  orchestrator.Claim
	target string
}

func ext4(name string) orchestrator.Claim {
	return orchestrator.Claim{Name: name, Size: 64 * volume.MiB, FSType: volume.Ext4}
}

func xfs(name string) orchestrator.Claim {
	return orchestrator.Claim{Name: name, Size: 300 * volume.MiB, FSType: volume.XFS}
}

func block(name string) orchestrator.Claim {
	return orchestrator.Claim{Name: name, Size: 64 * volume.MiB, Block: true}
}

// create makes a volume, and a pod that is not started.
func (s *site) create(claim orchestrator.Claim) *pod {
	s.t.Helper()
	v, err := s.driver.Create(s.ctx, claim)
	s.must(err)
	p := &pod{site: s, name: "pod-" + claim.Name, id: v.GetVolumeId(), claim: claim}
	s.pods = append(s.pods, p)
	return p
}

// launch makes a volume and starts a pod on it.
func (s *site) launch(claim orchestrator.Claim) *pod {
	s.t.Helper()
	p := s.create(claim)
	p.start()
	return p
}

func (p *pod) start() {
	p.t.Helper()
	target, err := p.driver.Start(p.ctx, p.id, p.name, p.claim, false)
	p.must(err)
	p.target = target
}

func (p *pod) stop() {
	p.t.Helper()
	p.must(p.driver.Client.Stop(p.ctx, p.id, p.name, p.claim))
}

// retire ends the pod and deletes its volume.
func (p *pod) retire() {
	p.t.Helper()
	p.stop()
	p.must(p.driver.Delete(p.ctx, p.id))
	p.forget()
}

// forget says that the pod's volume does not exist any more.
func (p *pod) forget() {
	p.pods = slices.DeleteFunc(p.pods, func(q *pod) bool { return q == p })
}

// path is a file of the pod; the name does not matter for a block volume.
func (p *pod) path(name string) string {
	if p.claim.Block {
		return p.target
	}
	return filepath.Join(p.target, name)
}

func (p *pod) write(name string, seed uint64) {
	p.t.Helper()
	p.must(workload.Write(p.path(name), seed, dataSize, true))
}

func (p *pod) verify(name string, seed uint64) {
	p.t.Helper()
	p.must(workload.Verify(p.path(name), seed, dataSize))
}

// journal starts a writer in the pod, which ends with the test.
func (p *pod) journal() *workload.Journal {
	p.t.Helper()
	j, err := workload.StartJournal(p.path("journal"))
	p.must(err)
	p.t.Cleanup(func() {
		_, _ = j.Stop() // what matters was checked before
	})
	p.must(j.WaitAcked(20, writeWait))
	return j
}

// mustGoOn demands that a writer makes progress from here.
func (s *site) mustGoOn(j *workload.Journal) {
	s.t.Helper()
	n, err := j.Acked()
	s.must(err)
	s.must(j.WaitAcked(n+10, writeWait))
}

func (p *pod) snapshot(name string) string {
	p.t.Helper()
	snap, err := p.driver.Snapshot(p.ctx, name, p.id)
	p.must(err)
	return snap.GetSnapshotId()
}

// copyOf is the claim of a volume like this one, made from a snapshot.
func (p *pod) copyOf(name, snapshot string) orchestrator.Claim {
	c := p.claim
	c.Name, c.Snapshot, c.Volume = name, snapshot, ""
	return c
}

// cloneOf is the claim of a volume like this one, made from it.
func (p *pod) cloneOf(name string) orchestrator.Claim {
	c := p.claim
	c.Name, c.Snapshot, c.Volume = name, "", p.id
	return c
}

// total is the size that the pod sees, in bytes.
func (p *pod) total() volume.Bytes {
	p.t.Helper()
	resp, err := p.driver.Node.NodeGetVolumeStats(p.ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: p.id, VolumePath: p.target})
	p.must(err)
	return volume.Bytes(resp.GetUsage()[0].GetTotal())
}

// mustSee demands that the pod sees a volume of about this size: a filesystem
// needs some of it for itself.
func (p *pod) mustSee(size volume.Bytes) {
	p.t.Helper()
	if got := p.total(); got > size || got < size*75/100 {
		p.t.Errorf("%s: the pod sees %s of a volume of %s", p.claim.Name, got, size)
	}
}

// size is what the driver says the volume has.
func (p *pod) size() volume.Bytes {
	p.t.Helper()
	resp, err := p.driver.Controller.ControllerGetVolume(p.ctx, &csi.ControllerGetVolumeRequest{VolumeId: p.id})
	p.must(err)
	return volume.Bytes(resp.GetVolume().GetCapacityBytes())
}

// capacity is the largest volume that the driver would make.
func (s *site) capacity() volume.Bytes {
	s.t.Helper()
	resp, err := s.driver.Controller.GetCapacity(s.ctx, &csi.GetCapacityRequest{})
	s.must(err)
	return volume.Bytes(resp.GetAvailableCapacity())
}

// volumes and snapshots are the ids that are listed.
func (s *site) volumes() []string {
	s.t.Helper()
	resp, err := s.driver.Controller.ListVolumes(s.ctx, &csi.ListVolumesRequest{})
	s.must(err)
	var ids []string
	for _, e := range resp.GetEntries() {
		ids = append(ids, e.GetVolume().GetVolumeId())
	}
	return ids
}

func (s *site) snapshots() []string {
	s.t.Helper()
	resp, err := s.driver.Controller.ListSnapshots(s.ctx, &csi.ListSnapshotsRequest{})
	s.must(err)
	var ids []string
	for _, e := range resp.GetEntries() {
		ids = append(ids, e.GetSnapshot().GetSnapshotId())
	}
	return ids
}

// mustHaveNothingUnderway demands that no operation left something half done.
func (s *site) mustHaveNothingUnderway() {
	s.t.Helper()
	for _, dir := range []string{filepath.Join(s.pool, ".staging"), filepath.Join(s.box.State(), "freeze")} {
		entries, err := os.ReadDir(dir)
		s.must(err)
		if len(entries) > 0 {
			s.t.Errorf("left in %s: %v", filepath.Base(dir), entries)
		}
	}
}

// mustEmptyTrash waits until what was deleted is gone.
func (s *site) mustEmptyTrash() {
	s.t.Helper()
	for end := time.Now().Add(writeWait); ; time.Sleep(5 * time.Millisecond) {
		entries, err := os.ReadDir(filepath.Join(s.pool, ".trash"))
		s.must(err)
		if len(entries) == 0 {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("still in the trash: %v\n%s", entries, s.log())
		}
	}
}

func numbered(what string, i int) string { return fmt.Sprintf("%s-%d", what, i) }

func splitLines(s string) []string { return strings.Split(s, "\n") }

func has(words string) func(string) bool {
	return func(s string) bool { return strings.Contains(s, words) }
}
