package bench

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/figures"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/plot"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

// copiesAgainstSize measures creating, copying and deleting volumes of 1 GiB to 1
// TiB that hold little. The pool is on a sparse disk that has room for all.
func copiesAgainstSize(r *run, pool string) {
	dir := r.sparseDisk(pool, 8*volume.TiB)
	box := harness.NewBox(r.t, 0)
	box.Flags = []string{"--pool=" + dir}
	if out, err := box.Run("pool", "init", "--state-dir="+box.State(), dir); err != nil {
		r.must(fmt.Errorf("%w: %s", err, out))
	}
	d := box.Start()
	rounds := orQuick(r, 8, 2)
	r.Line("")
	r.Line("Volumes with 64 MiB of data, mounted and idle, on a pool on a sparse disk of 8 TiB; %d rounds: p50 / p95 / max.", rounds)
	sizes := []volume.Bytes{volume.GiB, 10 * volume.GiB, 100 * volume.GiB, volume.TiB}
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		chart := plot.Chart{
			Title: fmt.Sprintf("Copies against size, %s volumes, pool on %s", fsType, pool),
			X:     plot.Axis{Label: "size of the volume, GiB", Log: true}, Y: plot.Axis{Label: "ms, p50 (range: to the maximum)", Log: true},
		}
		r.Table(string(fsType)+" volume", "create", "snapshot", "restore", "clone", "delete snapshot", "delete volume")
		for _, size := range sizes {
			var create figures.Samples
			for i := range rounds {
				claim := orchestrator.Claim{Name: fmt.Sprintf("created-%s-%d-%d", fsType, size/volume.GiB, i), Size: size, FSType: fsType}
				start := time.Now()
				v, err := d.Create(r.ctx, claim)
				create = append(create, time.Since(start))
				r.must(err)
				r.must(d.Delete(r.ctx, v.GetVolumeId()))
			}
			claim := orchestrator.Claim{Name: fmt.Sprintf("%s-%d", fsType, size/volume.GiB), Size: size, FSType: fsType}
			v, err := d.Create(r.ctx, claim)
			r.must(err)
			id := v.GetVolumeId()
			target, err := d.Client.Start(r.ctx, id, "writer", claim, false)
			r.must(err)
			r.must(workload.Write(filepath.Join(target, "data"), 1, 64*volume.MiB, true))
			c, err := measureCopies(r, d, id, claim, nil, rounds, 20*time.Second)
			r.must(err)
			r.must(d.Client.Stop(r.ctx, id, "writer", claim))
			r.must(d.Delete(r.ctx, id))
			r.Row(size.String(), three(create), three(c.snapshot), three(c.restore), three(c.clone), three(c.deleteSnapshot), three(c.deleteVolume))
			if size == volume.TiB {
				r.aimTime(fmt.Sprintf("snapshot, %s volume of 1 TiB, %s", fsType, pool), 100*time.Millisecond, c.snapshot)
				r.aimTime(fmt.Sprintf("restore, %s volume of 1 TiB, %s", fsType, pool), 60*time.Millisecond, c.restore)
			}
			for i, op := range c.operations() {
				if len(op.times) == 0 {
					continue
				}
				if i == len(chart.Lines) {
					chart.Lines = append(chart.Lines, plot.Line{Name: op.name, Dots: true})
				}
				chart.Lines[i].Points = append(chart.Lines[i].Points, c.point(i, float64(size/volume.GiB)))
			}
		}
		r.draw(fmt.Sprintf("copies-size-%s-%s", fsType, pool), fmt.Sprintf("Time of snapshot, restore, clone and deletions against the size of an %s volume", fsType), chart)
	}
	d.Stop()
}

// sparseDisk mounts a new filesystem of a size that is only used as far as it is
// written. It goes with the part, and must be made before its box.
func (r *run) sparseDisk(fsType string, size volume.Bytes) string {
	if fsType == "btrfs" {
		return scratch.Btrfs(r.t, 1, size)
	}
	// By default the log would take 2 GiB of the real disk.
	return scratch.XFS(r.t, size, "-l", "size=128m")
}
