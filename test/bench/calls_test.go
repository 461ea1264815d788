package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/figures"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// lifecycle makes one volume after another and times each call of their lives.
type lifecycle struct {
	driver *harness.Driver
	prefix string
	claim  orchestrator.Claim

	mu    sync.Mutex
	order []string
	times map[string]figures.Samples
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

// touch writes a little to a volume.
func touch(target string, block bool) error {
	if !block {
		target = filepath.Join(target, "data")
	}
	return workload.Write(target, 1, volume.MiB, true)
}

func (l *lifecycle) kind() string {
	if l.claim.Block {
		return "block"
	}
	return string(l.claim.FSType)
}

// calls measures each RPC alone and with many callers.
func calls(r *run, pool string) {
	_, d := r.box(pool, orQuick(r, 20*volume.GiB, 8*volume.GiB))
	callers := orQuick(r, 16, 4)
	alone := orQuick(r, 30, 3)
	for _, claim := range []orchestrator.Claim{
		{Size: volume.GiB, FSType: volume.Ext4},
		{Size: volume.GiB, FSType: volume.XFS},
		{Size: volume.GiB, Block: true},
	} {
		one := &lifecycle{driver: d, prefix: "alone", claim: claim, times: map[string]figures.Samples{}}
		for i := range alone {
			r.must(one.run(r.ctx, i))
		}
		many := &lifecycle{driver: d, prefix: "many", claim: claim, times: map[string]figures.Samples{}}
		many.claim.Size = 300 * volume.MiB // three of each caller at a time fit into the pool
		var group sync.WaitGroup
		failures := make([]error, callers)
		for i := range callers {
			group.Go(func() { failures[i] = many.run(r.ctx, i) })
		}
		group.Wait()
		r.must(errors.Join(failures...))
		r.Line("")
		r.Line("### %s volumes, pool on %s", one.kind(), pool)
		r.Line("")
		r.Line("Volumes of 1 GiB, one after another (%d), and of 300 MiB by %d callers at once, each on its own volume, who share the", alone, callers)
		r.Line("machine's cores and the pool's commits.")
		r.Table("call", "p50", "p95", fmt.Sprintf("p50, %d callers", callers), fmt.Sprintf("p95, %d callers", callers))
		if claim.FSType == volume.Ext4 {
			r.aimTime("CreateVolume, ext4, 1 GiB, durable, "+pool, 60*time.Millisecond, one.times["CreateVolume, ext4"])
		}
		r.aimTime("CreateVolume from a snapshot, "+one.kind()+", "+pool, 60*time.Millisecond, one.times["CreateVolume from a snapshot"])
		r.aimTime("CreateVolume from a volume, attached, "+one.kind()+", "+pool, 60*time.Millisecond, one.times["CreateVolume from a volume, attached"])
		for _, what := range one.order {
			a, m := one.times[what], many.times[what]
			r.Row(what, ms(a.Median()), ms(a.Percentile(95)), ms(m.Median()), ms(m.Percentile(95)))
		}
	}
	d.Stop()
}
