package fault

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// A pool image that was being made when the driver died is finished or made
// again by the next start, and there is one pool in the end.
func TestKilledWhileThePoolIsMade(t *testing.T) {
	harness.OnEachFilesystem(t, killedWhileThePoolIsMade)
}

func killedWhileThePoolIsMade(t *testing.T, flag string) {
	const small = volume.GiB
	box := harness.NewBox(t, small, flag)
	d := box.Start()
	// These are taken beside the start, and may come after it.
	steps := slices.DeleteFunc(d.Steps(), func(s string) bool { return s == "empty-trash/destroyed" || strings.HasPrefix(s, "guard/") })
	d.Stop()
	t.Logf("%d steps: %v", len(steps), steps)
	if len(steps) < 3 {
		t.Fatal("a pool is made in fewer steps than there should be")
	}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			box := harness.NewBox(t, small, flag)
			if d, err := box.TryStart(step + "=kill"); err == nil {
				d.Kill()
				t.Fatalf("the driver got ready although it was to die at %s", step)
			}
			d := box.Start()
			v, err := d.Create(t.Context(), blockClaim("a"))
			if err != nil {
				t.Fatal(err)
			}
			d.Stop()
			d = box.Start()
			if err := d.Delete(t.Context(), v.GetVolumeId()); err != nil {
				t.Error(err)
			}
			d.Stop()
		})
	}
}
