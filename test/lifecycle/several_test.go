package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// pluggable is a blank disk that can be taken out and put back.
type pluggable struct {
	site *site
	file string
	dev  *loop.Device
}

func newPluggable(s *site, name string, size volume.Bytes) *pluggable {
	s.t.Helper()
	// A loop on a file of this name goes with its mount (package teardown).
	d := &pluggable{site: s, file: filepath.Join(s.box.Dir, name, "pool.img")}
	s.must(os.MkdirAll(filepath.Dir(d.file), 0o700))
	s.must(os.WriteFile(d.file, nil, 0o600))
	s.must(os.Truncate(d.file, int64(size)))
	d.plug()
	s.t.Cleanup(d.unplug)
	return d
}

func (d *pluggable) plug() {
	s := d.site
	s.t.Helper()
	f, err := os.OpenFile(d.file, os.O_RDWR, 0)
	s.must(err)
	defer f.Close()
	d.dev, err = loop.Attach(context.Background(), loop.Config{Backing: f, Tag: "lifecycle-disk", BlockSize: 4096})
	s.must(err)
}

// unplug lets go of the disk; it goes when nothing has it mounted.
func (d *pluggable) unplug() {
	if err := d.dev.Close(); err != nil {
		d.site.t.Error(err)
	}
}

// command runs a command of the driver for its state directory.
func (s *site) command(args ...string) string {
	s.t.Helper()
	out, err := s.box.Run(append(args, "--state-dir="+s.box.State())...)
	s.must(err)
	return out
}

// status is what driver pool status says.
func (s *site) status(args ...string) []local.PoolStatus {
	s.t.Helper()
	out, err := s.box.Run(append([]string{"pool", "status", "--output=json", "--state-dir=" + s.box.State()}, args...)...)
	var pools []local.PoolStatus
	if jerr := json.Unmarshal([]byte(out), &pools); jerr != nil {
		s.t.Fatalf("status printed %q: %v, %v", out, jerr, err)
	}
	return pools
}

// in is a claim of a class that chooses a pool.
func in(pool string, c orchestrator.Claim) orchestrator.Claim {
	c.Name += "-" + pool
	c.Parameters = map[string]string{"pool": pool}
	return c
}

// room is what GetCapacity says of a class.
func (s *site) room(parameters map[string]string, topology map[string]string) volume.Bytes {
	s.t.Helper()
	req := &csi.GetCapacityRequest{Parameters: parameters}
	if topology != nil {
		req.AccessibleTopology = &csi.Topology{Segments: topology}
	}
	resp, err := s.driver.Controller.GetCapacity(s.ctx, req)
	s.must(err)
	return volume.Bytes(resp.GetAvailableCapacity())
}

// poolOf is the pool that a volume's id names.
func poolOf(id string) string { return strings.Split(id, ".")[1] }

func TestSeveralPoolsOfOneNode(t *testing.T) {
	s := &site{t: t, box: harness.NewBox(t, volume.GiB)}
	s.limit()
	s.pool = filepath.Join(s.box.Pools(), "pool")
	s.must(os.Mkdir(s.box.State(), 0o700))
	hdd, ssd := filepath.Join(s.box.Dir, "hdd"), filepath.Join(s.box.Dir, "mounts", "ssd")
	d := newPluggable(s, "drive", 1200*volume.MiB)
	said := s.command("pool", "init", "ssd="+d.dev.Path(), "--dir="+ssd)
	for _, words := range []string{"--pool=ssd=" + ssd, "kubectl", "{pool: ssd}"} {
		if !has(words)(said) {
			t.Errorf("init does not speak of %q:\n%s", words, said)
		}
	}
	s.box.Flags = append(s.box.Flags, "--pool=hdd="+hdd, "--pool-size=hdd=1Gi", "--pool=ssd="+ssd)
	s.driver = s.box.Start()

	ids := map[string]string{} // pool id -> name
	for _, p := range s.status() {
		if !p.Available {
			t.Fatalf("%+v", p)
		}
		ids[string(p.ID)] = p.Name
	}
	info, err := s.driver.Node.NodeGetInfo(s.ctx, &csi.NodeGetInfoRequest{})
	s.must(err)
	for id, name := range ids {
		if info.GetAccessibleTopology().GetSegments()["topology.csi.holdfast.dev/pool-"+id] != "yes" {
			t.Errorf("pool %s (%s) is not in the node's topology: %v", name, id, info.GetAccessibleTopology())
		}
	}

	pods := map[string]*pod{}
	snaps := map[string]string{}
	for id, name := range ids {
		p := s.launch(in(name, ext4("here")))
		p.write("data", 1)
		if poolOf(p.id) != id {
			t.Errorf("a class with the pool %s got %s", name, p.id)
		}
		snaps[name] = p.snapshot("snap-" + name)
		p.write("data", 2)
		restored := s.launch(p.copyOf("restored-"+name, snaps[name]))
		if poolOf(restored.id) != id {
			t.Errorf("a restore of %s is %s", p.id, restored.id)
		}
		restored.verify("data", 1)
		pods[name] = p
		// Each pool has its own room, however it is asked for.
		segment := map[string]string{"topology.csi.holdfast.dev/pool-" + id: "yes"}
		byName, byID := s.room(p.claim.Parameters, nil), s.room(nil, segment)
		if byName <= 0 || byName != byID {
			t.Errorf("pool %s has room for %s by name and %s by topology", name, byName, byID)
		}
	}
	if all := s.room(nil, nil); all <= s.room(map[string]string{"pool": "ssd"}, nil) {
		t.Errorf("all pools together have room for %s", all)
	}
	stranger := pods["hdd"].copyOf("stranger", snaps["hdd"])
	stranger.Parameters = map[string]string{"pool": "ssd"}
	_, err = s.driver.Create(s.ctx, stranger)
	s.mustRefuse(err, codes.InvalidArgument, "stays in its pool")
	_, err = s.driver.Create(s.ctx, in("tape", ext4("nowhere")))
	s.mustRefuse(err, codes.InvalidArgument, "default, hdd, ssd")
	unnamed := s.launch(ext4("unnamed"))
	if ids[poolOf(unnamed.id)] != "default" {
		t.Errorf("a class without a pool got %s", unnamed.id)
	}

	// One pool is lost, the others go on.
	s.driver.Stop()
	d.unplug()
	s.box.Reboot()
	s.driver = s.box.Start()
	lost := pods["ssd"]
	_, err = s.driver.Snapshot(s.ctx, "lost", lost.id)
	s.mustRefuse(err, codes.Unavailable, "nothing was created")
	s.mustRefuse(s.driver.Delete(s.ctx, lost.id), codes.Unavailable)
	s.mustRefuse(s.driver.Stage(s.ctx, lost.id, lost.claim), codes.Unavailable)
	if room := s.room(lost.claim.Parameters, nil); room != 0 {
		t.Errorf("a pool that is away has room for %s", room)
	}
	for _, name := range []string{"default", "hdd"} {
		pods[name].start()
		pods[name].verify("data", 2)
		s.must(s.driver.DeleteSnapshot(s.ctx, pods[name].snapshot("more-"+name)))
	}
	for _, p := range s.status() {
		if p.Available != (p.Name != "ssd") || !p.Available && !has("is not mounted")(p.Reason) {
			t.Errorf("%+v", p)
		}
	}
	d.plug()
	lost.mustReturn()
	lost.start()
	lost.verify("data", 2)
	for _, p := range s.pods {
		p.start()
	}
	s.clear()
}

func TestAPoolGrowsUnderItsWriters(t *testing.T) {
	harness.OnEachFilesystem(t, testAPoolGrowsUnderItsWriters)
}

func testAPoolGrowsUnderItsWriters(t *testing.T, flag string) {
	s := newSite(t, volume.GiB, flag)
	on := []*pod{s.launch(ext4("grow-ext4")), s.launch(xfs("grow-xfs"))}
	raw := s.launch(block("grow-block"))
	raw.write("", 7)
	before := s.capacity()
	// Killed at each step, and started again with the same flag.
	size := volume.GiB
	for _, step := range []string{"", "grow-pool/allocated", "grow-pool/lengthened", "grow-pool/refreshed", "grow-pool/grown"} {
		for _, p := range on {
			p.write("data", uint64(size))
		}
		writer, err := workload.StartPacedJournal(on[0].path("journal-"+filepath.Base(step)), time.Millisecond)
		s.must(err)
		size += 128 * volume.MiB
		s.driver.Stop()
		s.box.Flags[1] = fmt.Sprintf("--pool-size=%d", size)
		if step != "" {
			if d, err := s.box.TryStart(step + "=kill"); err == nil {
				d.Kill()
				t.Fatalf("the driver got ready although it was to die at %s", step)
			}
		}
		s.driver = s.box.Start()
		s.mustGoOn(writer)
		t.Logf("grown to %s, killed at %q: longest stall of the writer: %s", size, step, writer.Stall())
		if st := s.status()[0]; st.Size != size {
			t.Errorf("after %q the pool has %s, want %s", step, st.Size, size)
		}
		for _, p := range on {
			p.verify("data", uint64(size-128*volume.MiB))
		}
		acked, err := writer.Stop()
		s.must(err)
		if n, err := workload.VerifyJournal(on[0].path("journal-" + filepath.Base(step))); err != nil || n != acked {
			t.Errorf("%d records were acknowledged, %d are there: %v", acked, n, err)
		}
	}
	raw.verify("", 7)
	if now := s.capacity(); now < before+300*volume.MiB {
		t.Errorf("there was room for %s, and after growing by 640 MiB for %s", before, now)
	}
	// What was added can be promised and used.
	p := s.launch(sized(block("added"), s.capacity()-64*volume.MiB))
	p.write("", 9)
	p.verify("", 9)
	s.clear()
}
