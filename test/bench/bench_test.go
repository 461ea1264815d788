package bench

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

const poolSize = 60 * volume.GiB

// TestBenchmarks measures and writes the page.
func TestBenchmarks(t *testing.T) {
	path := os.Getenv("HOLDFAST_BENCH")
	if path == "" {
		t.Skip("benchmarks: HOLDFAST_BENCH names no file to write; run make bench")
	}
	box := harness.NewBox(t, poolSize)
	driver := box.Start()
	var r report
	r.header()
	calls(t, driver, &r)
	snapshots(t, box, driver, &r)
	growth(t, driver, &r)
	r.writeAims()
	driver.Stop()
	if err := os.WriteFile(path, r.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// lifecycle makes one volume after another and times each call of their lives.
type lifecycle struct {
	driver *harness.Driver
	prefix string
	claim  orchestrator.Claim

	mu    sync.Mutex
	order []string
	times map[string]samples
}

func (l *lifecycle) time(what string, fn func() error) error {
	start := time.Now()
	err := fn()
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.times[what]; !ok {
		l.order = append(l.order, what)
	}
	l.times[what] = append(l.times[what], took)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// run takes volume number i through its life. Copies are made of a volume that
// is mounted and has been written to.
func (l *lifecycle) run(ctx context.Context, i int) error {
	d, claim := l.driver, l.claim
	claim.Name = fmt.Sprintf("%s-%d", l.prefix, i)
	restored := claim
	restored.Name += "-restored"
	cloned := claim
	cloned.Name += "-cloned"
	pod := claim.Name
	var id, snap, target, other, third string
	steps := []struct {
		what string
		do   func() error
	}{
		{"CreateVolume, " + l.kind(), func() error { v, err := d.Create(ctx, claim); id = v.GetVolumeId(); return err }},
		{"NodeStageVolume", func() error { return d.Stage(ctx, id, claim) }},
		{"NodePublishVolume", func() (err error) { target, err = d.Publish(ctx, id, pod, claim, false); return err }},
		{"NodePublishVolume, repeated", func() error { _, err := d.Publish(ctx, id, pod, claim, false); return err }},
		{"", func() error { return touch(target, claim.Block) }},
		{"NodeGetVolumeStats", func() error {
			_, err := d.Node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
			return err
		}},
		{"CreateSnapshot, attached and written", func() error { s, err := d.Snapshot(ctx, claim.Name, id); snap = s.GetSnapshotId(); return err }},
		{"CreateVolume from a snapshot", func() error {
			restored.Snapshot = snap
			v, err := d.Create(ctx, restored)
			other = v.GetVolumeId()
			return err
		}},
		{"CreateVolume from a volume, attached", func() error {
			cloned.Volume = id
			v, err := d.Create(ctx, cloned)
			third = v.GetVolumeId()
			return err
		}},
		{"ListVolumes", func() error {
			_, err := d.Controller.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 100})
			return err
		}},
		{"GetCapacity", func() error { _, err := d.Controller.GetCapacity(ctx, &csi.GetCapacityRequest{}); return err }},
		{"NodeUnpublishVolume", func() error { return d.Unpublish(ctx, id, pod, claim) }},
		{"NodeUnstageVolume", func() error { return d.Unstage(ctx, id) }},
		{"DeleteSnapshot", func() error { return d.DeleteSnapshot(ctx, snap) }},
		{"DeleteVolume", func() error { return d.Delete(ctx, id) }},
		{"", func() error { return d.Delete(ctx, other) }},
		{"", func() error { return d.Delete(ctx, third) }},
	}
	for _, s := range steps {
		if s.what == "" {
			if err := s.do(); err != nil {
				return err
			}
			continue
		}
		if err := l.time(s.what, s.do); err != nil {
			return err
		}
	}
	return nil
}

func (l *lifecycle) kind() string {
	if l.claim.Block {
		return "block"
	}
	return string(l.claim.FSType)
}

// calls measures each RPC alone and with many callers.
func calls(t *testing.T, d *harness.Driver, r *report) {
	const (
		alone   = 30
		callers = 32
	)
	for _, claim := range []orchestrator.Claim{
		{Size: volume.GiB, FSType: volume.Ext4},
		{Size: volume.GiB, FSType: volume.XFS},
		{Size: volume.GiB, Block: true},
	} {
		one := &lifecycle{driver: d, prefix: "alone", claim: claim, times: map[string]samples{}}
		for i := range alone {
			if err := one.run(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
		many := &lifecycle{driver: d, prefix: "many", claim: claim, times: map[string]samples{}}
		many.claim.Size = 300 * volume.MiB // 96 volumes at a time fit into the pool
		var group sync.WaitGroup
		for i := range callers {
			group.Go(func() {
				if err := many.run(t.Context(), i); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if t.Failed() {
			t.FailNow()
		}
		r.line("")
		r.line("## Calls, %s volumes", one.kind())
		r.line("")
		r.line("Volumes of 1 GiB, one after another (%d), and of 300 MiB by %d callers at once, each on its own volume.", alone, callers)
		r.table("call", "p50", "p95", fmt.Sprintf("p50, %d callers", callers), fmt.Sprintf("p95, %d callers", callers))
		if claim.FSType == volume.Ext4 {
			r.aim("CreateVolume, ext4, 1 GiB, durable", 60*time.Millisecond, one.times["CreateVolume, ext4"])
		}
		r.aim("CreateVolume from a snapshot, "+one.kind(), 60*time.Millisecond, one.times["CreateVolume from a snapshot"])
		r.aim("CreateVolume from a volume, attached, "+one.kind(), 60*time.Millisecond, one.times["CreateVolume from a volume, attached"])
		for _, what := range one.order {
			a, m := one.times[what], many.times[what]
			r.row(what, ms(a.percentile(50)), ms(a.percentile(95)), ms(m.percentile(50)), ms(m.percentile(95)))
		}
	}
}
