package scale

import (
	"os"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/figures"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// plan is how much a run makes.
type plan struct {
	fsType    string // of the pool
	volumes   int    // a multiple of kinds
	snapshots int    // of each volume
	mounted   int    // volumes that are mounted while the driver is killed
	restarts  int
	// round is in what time each of the volumes is asked for its statistics once:
	// with kubelet, a minute.
	round time.Duration
	// slack is how many times an aim of time may be missed: a machine that does other
	// work too is no bug.
	slack int
}

// percentile is what stands for the longest calls. On a machine that does other work
// too it is one that a single hiccup does not change.
func (p plan) percentile() int {
	if p.slack > 1 {
		return 90
	}
	return 99
}

// kinds is the number of volumes after which the kinds of volumes repeat.
const kinds = 25

// edge is how many calls at the beginning are compared with as many at the end.
const edge = 50

func TestTwoHundredVolumes(t *testing.T) {
	roottest.Require(t)
	var page figures.Page
	run(t, plan{fsType: "btrfs", volumes: 200, snapshots: 2, mounted: 40, restarts: 3, round: 2 * time.Second, slack: 4}, &page)
	t.Log("\n" + page.String())
}

// TestAThousandVolumes writes the page.
func TestAThousandVolumes(t *testing.T) {
	path := os.Getenv("HOLDFAST_SCALE")
	if path == "" {
		t.Skip("a thousand volumes: HOLDFAST_SCALE names no file to write; run make scale")
	}
	var page figures.Page
	page.Line("# A thousand volumes")
	page.Line("")
	page.Line("Written by `make scale`; every figure below is from one run on one machine. Compare within a run, not between")
	page.Line("machines. Times are in milliseconds. An aim that is missed fails the run.")
	page.Line("")
	page.Machine()
	page.Line("* load average before the run: %s", load(t))
	// Also after a failure: what was measured by then is worth reading.
	defer func() {
		page.Line("")
		page.Line("## Aims")
		page.Line("")
		page.Line("Load average after the run, which is part of it: %s.", load(t))
		page.WriteAims()
		if err := os.WriteFile(path, page.Bytes(), 0o644); err != nil {
			t.Error(err)
		}
	}()
	for _, fsType := range []string{"btrfs", "xfs"} {
		run(t, plan{fsType: fsType, volumes: 1000, snapshots: 5, mounted: 200, restarts: 5, round: time.Minute, slack: 1}, &page)
	}
}

// run is the life of a pool.
func run(t *testing.T, p plan, page *figures.Page) {
	before := len(page.Missed())
	s := newScene(t, p, page)
	page.Line("")
	page.Line("## %d volumes and %d snapshots, %s pool", p.volumes, p.volumes*p.snapshots, p.fsType)
	page.Line("")
	page.Line("Of 25 volumes 22 are ext4 (1 GiB), one is xfs and grown tenfold (300 MiB), two are raw block devices (1 GiB).")
	s.fill()
	s.growTenfold()
	s.list()
	s.restart()
	s.restartMounted()
	s.stageAll()
	s.republish()
	s.stats()
	s.empty()
	for _, missed := range page.Missed()[before:] {
		t.Error("missed: " + missed)
	}
}
