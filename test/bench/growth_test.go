package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// growth measures ControllerExpandVolume and NodeExpandVolume under a writer.
func growth(t *testing.T, d *harness.Driver, r *report) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r.line("")
	r.line("## Online growth")
	r.line("")
	r.line("Both calls together, %d times by 1 GiB each, while a writer appends 4 KiB records and syncs each (xfs), or the device", rounds)
	r.line("is open (block). ext4 grows online only where the driver has CAP_SYS_RESOURCE, which the machine of this run lacks.")
	r.table("volume", "p50", "p95", "longest stall of the writer")
	for _, claim := range []orchestrator.Claim{
		{Name: "growing-xfs", Size: 2 * volume.GiB, FSType: volume.XFS},
		{Name: "growing-block", Size: 2 * volume.GiB, Block: true},
	} {
		v, err := d.Create(ctx, claim)
		must(err)
		id := v.GetVolumeId()
		target, err := d.Start(ctx, id, "writer", claim, false)
		must(err)
		var j *workload.Journal
		if !claim.Block {
			j, err = workload.StartJournal(filepath.Join(target, "journal"))
			must(err)
			must(j.WaitAcked(100, time.Minute))
			j.Stall()
		}
		var took samples
		for i := range rounds {
			start := time.Now()
			must(d.Expand(ctx, id, "writer", claim, claim.Size+volume.Bytes(i+1)*volume.GiB))
			took = append(took, time.Since(start))
		}
		r.aim("online growth, "+claim.Name, 100*time.Millisecond, took)
		stall := "-"
		if j != nil {
			stall = ms(j.Stall())
			_, err := j.Stop()
			must(err)
		}
		r.row(string(claim.FSType)+map[bool]string{true: "block"}[claim.Block], ms(took.percentile(50)), ms(took.percentile(95)), stall)
		must(d.Client.Stop(ctx, id, "writer", claim))
		must(d.Delete(ctx, id))
	}
}

// copyFile times a plain copy of a file, synced, and removes the copy.
func copyFile(from, to string) (time.Duration, error) {
	start := time.Now()
	if out, err := exec.Command("cp", "--sparse=always", "--reflink=never", from, to).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	if out, err := exec.Command("sync", to).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("sync %s: %w: %s", to, err, out)
	}
	return time.Since(start), os.Remove(to)
}
