package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// TestThePromiseIsKeptForEver is the loop that breaks ledgers which add up sizes:
// snapshot, rewrite almost everything in 4 KiB blocks, delete the snapshot, again
// and again, while others take all room that is left. Each round leaves a few
// blocks as they are, which pin the whole extents that they are in. Snapshots and
// creates may be refused; no write may ever fail, and no byte may be lost.
func TestThePromiseIsKeptForEver(t *testing.T) {
	harness.OnEachFilesystem(t, testThePromiseIsKeptForEver)
}

func testThePromiseIsKeptForEver(t *testing.T, flag string) {
	rounds := 3
	if roottest.Every() {
		rounds = 12
	}
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_LEDGER_ROUNDS")); err == nil {
		rounds = n
	}
	s := newSite(t, 2*volume.GiB, flag)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rounds)*3*callLimit)
	defer cancel()
	s.ctx = ctx
	l := &ledgerLoop{site: s, rounds: rounds}
	var writers []*churner
	for i, claim := range []orchestrator.Claim{sized(block("churn-block"), churnSize), sized(ext4("churn-ext4"), churnSize+churnSize/4), xfs("churn-xfs")} {
		writers = append(writers, l.newChurner(claim, uint64(i)))
	}
	// The others end with the writers.
	crowd, stop := context.WithCancel(ctx)
	var others errgroup.Group
	for i := range 2 {
		others.Go(func() error { return l.crowd(crowd, i) })
	}
	var group errgroup.Group
	for _, w := range writers {
		group.Go(func() error { return w.churn(ctx) })
	}
	err := group.Wait()
	stop()
	s.must(errors.Join(err, others.Wait()))
	t.Logf("%d snapshots, %d refused; %d creates, %d refused; %d clones", l.snapshots, l.snapshotsRefused, l.creates, l.createsRefused, l.clones)
	if strings.Contains(s.driver.Log(), "GuardFroze") {
		t.Errorf("a pool in which every promise holds was frozen:\n%s", s.log())
	}
	if l.snapshots < 2*len(writers) || l.createsRefused == 0 {
		t.Errorf("that was not at the limit of admission")
	}
	s.limit()
	for made := true; made; {
		made, err = l.makeRoom()
		s.must(err)
	}
	s.clear()
}

// churnSize is how much of each volume is rewritten in each round.
const churnSize = 48 * volume.MiB

// ledgerLoop counts what was done and what was refused, and knows the volumes of
// the crowd.
type ledgerLoop struct {
	*site
	rounds int

	mu                                                           sync.Mutex
	snapshots, snapshotsRefused, creates, createsRefused, clones int
	full                                                         []*pod
}

// count counts a call, and passes on only what is no refusal.
func (l *ledgerLoop) count(err error, done, refused *int) (ok bool, _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch status.Code(err) {
	case codes.OK:
		*done++
		return true, nil
	case codes.ResourceExhausted:
		*refused++
		return false, nil
	}
	return false, err
}

// churner is a pod that rewrites its volume, which is full to the brim.
type churner struct {
	*pod
	loop   *ledgerLoop
	blocks *workload.Blocks
}

func (l *ledgerLoop) newChurner(claim orchestrator.Claim, seed uint64) *churner {
	l.t.Helper()
	p := l.launch(claim)
	size := claim.Size
	if !claim.Block {
		size = min(p.fill(seed)/workload.BlockSize*workload.BlockSize, churnSize)
	}
	b, err := workload.NewBlocks(p.path("full"), seed, size)
	l.must(err)
	return &churner{pod: p, loop: l, blocks: b}
}

func (c *churner) churn(ctx context.Context) error {
	for round := range c.loop.rounds {
		snap, err := c.snapshotAtLast(ctx, round)
		if err != nil {
			return fmt.Errorf("snapshot of %s: %w", c.claim.Name, err)
		}
		pin := rand.IntN(64)
		if err := c.blocks.Rewrite(func(i int) bool { return i%64 == pin }); err != nil {
			return fmt.Errorf("round %d: a promise was broken: %w", round, err)
		}
		c.t.Logf("%s: round %d done, with a snapshot: %v", c.claim.Name, round, snap != "")
		if snap != "" {
			if err := c.driver.DeleteSnapshot(ctx, snap); err != nil {
				return err
			}
		}
	}
	return c.blocks.Verify()
}

// snapshotAtLast has others make room until a snapshot is admitted; it is "" if
// they have none to give.
func (c *churner) snapshotAtLast(ctx context.Context, round int) (id string, err error) {
	for {
		snap, err := c.driver.Snapshot(ctx, numbered(c.claim.Name, round), c.id)
		ok, err := c.loop.count(err, &c.loop.snapshots, &c.loop.snapshotsRefused)
		if ok || err != nil {
			return snap.GetSnapshotId(), err
		}
		if made, err := c.loop.makeRoom(); !made || err != nil {
			return "", err
		}
	}
}

// crowd makes volumes, and clones of some, and fills them, until the pool is full
// to the limit of admission, and again when there is room, until ctx ends.
func (l *ledgerLoop) crowd(ctx context.Context, who int) error {
	const largest, smallest = 64 * volume.MiB, 4 * volume.MiB
	size := largest
	for i := 0; ctx.Err() == nil; i++ {
		made, err := l.crowdOne(sized(block(fmt.Sprintf("crowd-%d-%d", who, i)), size))
		if err != nil {
			return err
		}
		switch {
		case made:
			size = largest
		case size > smallest:
			size /= 2
		default:
			time.Sleep(50 * time.Millisecond)
			size = largest
		}
	}
	return nil
}

// crowdOne fills a new volume, and a clone of it, if they are admitted.
func (l *ledgerLoop) crowdOne(claim orchestrator.Claim) (made bool, err error) {
	v, err := l.driver.Create(l.ctx, claim)
	if made, err = l.count(err, &l.creates, &l.createsRefused); !made {
		return false, err
	}
	p := &pod{site: l.site, name: "pod-" + claim.Name, id: v.GetVolumeId(), claim: claim}
	if err := p.use(1); err != nil {
		return false, err
	}
	copied := p.cloneOf(claim.Name + "-clone")
	v, err = l.driver.Create(l.ctx, copied)
	cloned, err := l.count(err, &l.clones, &l.createsRefused)
	if cloned {
		clone := &pod{site: l.site, name: "pod-" + copied.Name, id: v.GetVolumeId(), claim: copied}
		err = errors.Join(clone.use(2), p.use(3))
		l.keep(clone)
	}
	l.keep(p)
	return true, err
}

func (l *ledgerLoop) keep(p *pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = append(l.full, p)
}

// makeRoom deletes a volume of the crowd, if it has one.
func (l *ledgerLoop) makeRoom() (made bool, err error) {
	l.mu.Lock()
	if len(l.full) == 0 {
		l.mu.Unlock()
		return false, nil
	}
	p := l.full[0]
	l.full = l.full[1:]
	l.mu.Unlock()
	return true, p.leave()
}

// use fills the volume with a pattern.
func (p *pod) use(seed uint64) (err error) {
	if p.target == "" {
		if p.target, err = p.driver.Start(p.ctx, p.id, p.name, p.claim, false); err != nil {
			return err
		}
	}
	if err := workload.Write(p.target, seed, p.claim.Size, true); err != nil {
		return fmt.Errorf("a promise was broken: %w", err)
	}
	return workload.Verify(p.target, seed, p.claim.Size)
}

// leave ends the pod and deletes its volume.
func (p *pod) leave() error {
	if p.target != "" {
		if err := p.driver.Client.Stop(p.ctx, p.id, p.name, p.claim); err != nil {
			return err
		}
	}
	return p.driver.Delete(p.ctx, p.id)
}
