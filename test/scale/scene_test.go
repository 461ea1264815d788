package scale

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/figures"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// scene is a machine with one pool, the driver that runs on it now, and what was
// made so far.
type scene struct {
	t      *testing.T
	ctx    context.Context
	plan   plan
	page   *figures.Page
	box    *harness.Box
	driver *harness.Driver
	disk   string // where the pool's disk is mounted
	// endpoint is the host and port of the driver's metrics.
	endpoint string

	volumes   []member
	snapshots []string
	before    trace // of the driver, and of the pool while it is empty
}

// member is a volume of the pool.
type member struct {
	id    string
	claim orchestrator.Claim
}

// pod is the name of the pod that uses the volume.
func (m member) pod() string { return "pod-" + m.claim.Name }

// diskSize is what the pool believes to have.
const diskSize = 4 * volume.TiB

func newScene(t *testing.T, p plan, page *figures.Page) *scene {
	t.Helper()
	giveBackDevices(t) // after everything else
	s := &scene{t: t, ctx: t.Context(), plan: p, page: page, box: harness.NewBox(t, volume.GiB)}
	s.disk = filepath.Join(s.box.Dir, "disk")
	file := s.diskFile()
	s.must(os.Mkdir(s.disk, 0o700))
	s.must(os.WriteFile(file, nil, 0o600))
	s.must(os.Truncate(file, int64(diskSize)))
	argv := []string{"mkfs." + p.fsType, "-q", "-K", file} // both know -K: no discards
	if p.fsType == local.FilesystemXFS {
		argv = append(argv, "-s", "size=4096") // as the loop device below has
	}
	_, err := command.New().Run(s.ctx, argv...)
	s.must(err)
	s.mountDisk()
	pools, err := local.New(local.Config{
		Pools:    []local.PoolConfig{{Name: "default", Dir: s.disk}},
		StateDir: s.box.State(), Runner: command.New(),
	})
	s.must(err)
	s.must(pools.Init(s.ctx))
	s.must(pools.Close())
	s.endpoint = freePort(t)
	s.box.Flags = []string{"--pool=" + s.disk, "-v=0", "--http-endpoint=" + s.endpoint}
	s.driver = s.box.Start()
	s.waitForBallast()
	s.before = s.observe()
	return s
}

// waitForBallast waits for the last that a new pool gets, in the background.
func (s *scene) waitForBallast() {
	s.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(s.disk, "ballast")); err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatal("the new pool has no ballast")
		}
	}
}

// freePort is a port on this machine that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// diskFile has the name of a pool's image, so that package teardown leaves its
// loop device to the mount.
func (s *scene) diskFile() string { return filepath.Join(s.box.Dir, "pool.img") }

// mountDisk does what the machine's fstab does.
func (s *scene) mountDisk() {
	s.t.Helper()
	f, err := os.OpenFile(s.diskFile(), os.O_RDWR, 0)
	s.must(err)
	defer f.Close()
	dev, err := loop.Attach(s.ctx, loop.Config{Backing: f, Tag: "scale-disk", BlockSize: 4096, DirectIO: true})
	s.must(err)
	defer dev.Close()
	tree, err := mount.New(s.ctx, mount.Config{FSType: s.plan.fsType, Source: dev.Path()})
	s.must(err)
	defer tree.Close()
	root, err := mount.OpenRoot(s.box.Dir)
	s.must(err)
	defer root.Close()
	target, err := root.OpenTarget(s.disk)
	s.must(err)
	defer target.Close()
	s.must(tree.Attach(target))
}

// unmountDisk takes the disk away, and with it all that the kernel has cached of
// it.
func (s *scene) unmountDisk() {
	s.t.Helper()
	root, err := mount.OpenRoot(s.box.Dir)
	s.must(err)
	defer root.Close()
	s.must(root.Unmount(s.ctx, s.disk))
}

// claim is what volume number i is asked for.
func claim(i int) orchestrator.Claim {
	c := orchestrator.Claim{Name: fmt.Sprintf("volume-%04d", i), Size: volume.GiB, FSType: volume.Ext4}
	switch i % kinds {
	case 6:
		c.FSType, c.Size = volume.XFS, smallXFS
	case 9, 19:
		c.FSType, c.Block = "", true
	}
	return c
}

// smallXFS is as small as an xfs may be; growsTenfold says which volumes start
// so, and grow.
const smallXFS = 300 * volume.MiB

func growsTenfold(i int) bool { return i%kinds == 6 }

// timed is how long fn takes, which must succeed.
func (s *scene) timed(fn func() error) time.Duration {
	s.t.Helper()
	start := time.Now()
	s.must(fn())
	return time.Since(start)
}

// each does something n times and gives the times.
func (s *scene) each(n int, fn func(i int) error) figures.Samples {
	s.t.Helper()
	var out figures.Samples
	for i := range n {
		out = append(out, s.timed(func() error { return fn(i) }))
	}
	return out
}

// edges compares the first calls of a series with the last ones.
func (s *scene) edges(what string, all figures.Samples) { s.edgesBelow(what, mostRatio, all) }

// nodeEdges is edges for the calls of kubelet, each of which reads the list of
// mounts: it grows with what is mounted.
func (s *scene) nodeEdges(what string, all figures.Samples) { s.edgesBelow(what, mostNodeRatio, all) }

func (s *scene) edgesBelow(what string, most float64, all figures.Samples) {
	most *= float64(s.plan.slack)
	first, last := all.First(edge), all.Last(edge)
	ratio := last.Percentile(quiet).Seconds() / first.Percentile(quiet).Seconds()
	ms := figures.Milliseconds
	s.page.Row(what, fmt.Sprint(len(all)), ms(first.Median()), ms(first.Percentile(95)), ms(last.Median()), ms(last.Percentile(95)), fmt.Sprintf("%.2f", ratio))
	s.aim(what+", last 50 against first 50", fmt.Sprintf("below %.0f times", most), fmt.Sprintf("%.2f", ratio), ratio < most)
}

const (
	// mostRatio is how much longer a call may take with a full pool.
	mostRatio     = 2
	mostNodeRatio = 4
	// quiet is the percentile that is compared: what else the machine does shows in
	// the slower calls, what grows with the pool in all of them.
	quiet = 25
)

func (s *scene) edgesTable() {
	s.page.Table("call", "calls", "first 50, p50", "p95", "last 50, p50", "p95", "ratio of the p25")
}

func (s *scene) aim(what, want, have string, met bool) {
	s.page.Aim(fmt.Sprintf("%s, %d volumes, %s", what, s.plan.volumes, s.plan.fsType), want, have, met)
}

// section starts a part of the page, and says in the test's log where it is.
func (s *scene) section(title string) {
	s.t.Logf("%s: %s", time.Now().Format(time.TimeOnly), title)
	s.page.Line("")
	s.page.Line("### %s, %s", title, s.plan.fsType)
}
