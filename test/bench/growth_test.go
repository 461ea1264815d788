package bench

import (
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/figures"
)

// growth measures ControllerExpandVolume and NodeExpandVolume under a writer.
func growth(r *run, pool string) {
	_, d := r.box(pool, orQuick(r, 20*volume.GiB, 8*volume.GiB))
	rounds := orQuick(r, 10, 2)
	r.Line("")
	r.Line("Both calls together, %d times by 1 GiB each, while a writer appends 4 KiB records and syncs each (xfs), or the device", rounds)
	r.Line("is open (block). ext4 grows online only where the driver has CAP_SYS_RESOURCE, and is not measured here.")
	r.Table("volume", "p50 / p95 / max", "longest stall of the writer")
	for _, claim := range []orchestrator.Claim{
		{Name: "growing-xfs", Size: 2 * volume.GiB, FSType: volume.XFS},
		{Name: "growing-block", Size: 2 * volume.GiB, Block: true},
	} {
		v, err := d.Create(r.ctx, claim)
		r.must(err)
		id := v.GetVolumeId()
		target, err := d.Client.Start(r.ctx, id, "writer", claim, false)
		r.must(err)
		var j *workload.Journal
		if !claim.Block {
			j, err = workload.StartJournal(filepath.Join(target, "journal"))
			r.must(err)
			r.must(j.WaitAcked(100, time.Minute))
			j.Stall()
		}
		var took figures.Samples
		for i := range rounds {
			start := time.Now()
			r.must(d.Expand(r.ctx, id, "writer", claim, claim.Size+volume.Bytes(i+1)*volume.GiB))
			took = append(took, time.Since(start))
		}
		r.aimTime("online growth, "+claim.Name+", "+pool, 100*time.Millisecond, took)
		stall := "-"
		if j != nil {
			stall = ms(j.Stall())
			_, err := j.Stop()
			r.must(err)
		}
		r.Row(map[bool]string{true: "block", false: string(claim.FSType)}[claim.Block], three(took), stall)
		r.must(d.Client.Stop(r.ctx, id, "writer", claim))
		r.must(d.Delete(r.ctx, id))
	}
	d.Stop()
}
