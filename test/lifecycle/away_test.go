package lifecycle

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// mustBeAway demands that the pool of a pod's volume makes only its own calls
// unavailable, with this in the error.
func (p *pod) mustBeAway(words ...string) {
	p.t.Helper()
	_, err := p.driver.Create(p.ctx, sized(ext4("away-"+p.claim.Name), 16*volume.MiB))
	p.mustRefuse(err, codes.Unavailable, words...)
	_, err = p.driver.Create(p.ctx, p.cloneOf("away-clone-"+p.claim.Name))
	p.mustRefuse(err, codes.Unavailable, words...)
	_, err = p.driver.Snapshot(p.ctx, "away-"+p.claim.Name, p.id)
	p.mustRefuse(err, codes.Unavailable, words...)
	p.mustRefuse(p.driver.Delete(p.ctx, p.id), codes.Unavailable, words...)
	p.mustRefuse(p.driver.Stage(p.ctx, p.id, p.claim), codes.Unavailable, words...)
	_, err = p.driver.Controller.ControllerGetVolume(p.ctx, &csi.ControllerGetVolumeRequest{VolumeId: p.id})
	p.mustRefuse(err, codes.Unavailable, words...)
	resp, err := p.driver.Controller.GetCapacity(p.ctx, &csi.GetCapacityRequest{Parameters: map[string]string{"pool": "default"}})
	p.must(err)
	if resp.GetAvailableCapacity() != 0 {
		p.t.Errorf("a pool that is away has room for %d bytes", resp.GetAvailableCapacity())
	}
}

// mustReturn waits until the pool of a pod's volume is back, without a restart.
func (p *pod) mustReturn() {
	p.t.Helper()
	began := time.Now()
	for {
		_, err := p.driver.Controller.ControllerGetVolume(p.ctx, &csi.ControllerGetVolumeRequest{VolumeId: p.id})
		if err == nil {
			break
		}
		if time.Since(began) > callLimit {
			p.t.Fatalf("the pool does not come back: %v\n%s", err, p.log())
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.t.Logf("the pool was back after %s", time.Since(began).Round(time.Millisecond))
}

func TestAPoolImageThatIsGoneIsNeverMadeAnew(t *testing.T) {
	s := &site{t: t, box: harness.NewBox(t, volume.GiB)}
	s.limit()
	s.pool = filepath.Join(s.box.Pools(), "pool")
	second := filepath.Join(s.box.Dir, "second")
	s.box.Flags = append(s.box.Flags, "--pool=second="+second, "--pool-size=second=1Gi")
	s.driver = s.box.Start()
	here, there := ext4("here"), ext4("there")
	here.Parameters = map[string]string{"pool": "default"}
	there.Parameters = map[string]string{"pool": "second"}
	lost, kept := s.launch(here), s.launch(there)
	lost.write("data", 1)
	kept.write("data", 2)
	s.driver.Stop()
	s.box.Reboot()
	image := filepath.Join(s.box.Pools(), "pool.img")
	s.must(os.Rename(image, image+".away"))

	s.driver = s.box.Start()
	lost.mustBeAway("nothing was created")
	kept.start()
	kept.verify("data", 2)
	s.must(s.driver.DeleteSnapshot(s.ctx, kept.snapshot("kept")))
	p := s.launch(sized(orchestrator.Claim{Name: "new", FSType: volume.Ext4, Parameters: there.Parameters}, 64*volume.MiB))
	p.retire()
	if ids := s.volumes(); !slices.Equal(ids, []string{kept.id}) {
		t.Errorf("listed: %v", ids)
	}
	for _, name := range []string{"pool.img", "pool.img.new"} {
		if _, err := os.Stat(filepath.Join(s.box.Pools(), name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}

	s.must(os.Rename(image+".away", image))
	lost.mustReturn()
	lost.start()
	lost.verify("data", 1)
	s.clear()
}

func TestAPoolThatIsNotMountedIsRefused(t *testing.T) {
	s := &site{t: t, box: harness.NewBox(t, volume.GiB)}
	s.limit()
	d := newDisk(s, "disk", volume.GiB)
	s.pool = filepath.Join(d.dir, "pool")
	s.must(os.Mkdir(s.pool, 0o700))
	initPool(s, s.pool)
	s.box.Flags = []string{"--pool=" + s.pool}
	s.driver = s.box.Start()
	p := s.launch(ext4("away"))
	p.write("data", 1)
	p.stop()
	s.driver.Stop()
	s.must(unix.Unmount(d.dir, 0))
	// What an impatient person or a container runtime makes.
	s.must(os.Mkdir(s.pool, 0o700))

	s.driver = s.box.Start()
	p.mustBeAway("btrfs")
	empty(s, s.pool)
	s.driver.Stop()

	for what, prepare := range map[string]func(){
		"another filesystem": func() { s.must(unix.Mount("other", d.dir, "tmpfs", 0, "")) },
		"another btrfs": func() {
			formatDisk(s, "btrfs", filepath.Join(s.box.Dir, "other"), volume.GiB).mount(d.dir)
		},
	} {
		prepare()
		s.must(os.MkdirAll(s.pool, 0o700))
		s.driver = s.box.Start()
		t.Log(what)
		p.mustBeAway()
		empty(s, s.pool)
		s.driver.Stop()
		s.must(unix.Unmount(d.dir, 0))
	}

	s.driver = s.box.Start()
	p.mustBeAway()
	d.mount(d.dir)
	p.mustReturn()
	p.start()
	p.verify("data", 1)
	s.clear()
}

func TestAPoolImageBehindAnotherMountIsRefused(t *testing.T) {
	s := newSite(t, volume.GiB)
	p := s.launch(ext4("behind"))
	p.write("data", 1)
	s.driver.Stop()
	s.box.Reboot()
	s.must(unix.Mount("other", s.pool, "tmpfs", 0, ""))
	s.driver = s.box.Start()
	p.mustBeAway("is a mount of other", "unmount it")
	empty(s, s.pool)
	s.must(unix.Unmount(s.pool, 0))
	p.mustReturn()
	p.start()
	p.verify("data", 1)
	s.clear()
}

// empty demands that nothing was made in a directory.
func empty(s *site, dir string) {
	s.t.Helper()
	entries, err := os.ReadDir(dir)
	s.must(err)
	if len(entries) > 0 {
		s.t.Errorf("made in %s: %v", dir, entries)
	}
}
