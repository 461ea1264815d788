package hostile

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

const (
	poolSize = 6 * volume.GiB
	dataSize = 4 * volume.MiB
)

// scene is a driver with volumes of running pods, the witnesses, and a tree that
// is none of its business, the canary.
type scene struct {
	t         *testing.T
	box       *harness.Box
	driver    *harness.Driver
	wire      *wire
	witnesses []*witness
	// spares are volumes of the same kinds that nobody uses.
	spares []*witness
	// snapshot is the id of a snapshot of the first witness.
	snapshot string
	// before is the box before the first attack.
	before []string
	// said is every error that the driver answered, last the newest.
	last string
	said strings.Builder
}

// witness is a volume that a pod uses while the driver is attacked.
type witness struct {
	claim orchestrator.Claim
	id    string
	// target is where it is published, data the file or device with its content.
	target, data string
	seed         uint64
}

func newScene(t *testing.T) *scene {
	t.Helper()
	box := harness.NewBox(t, poolSize)
	box.Flags = append(box.Flags, "--http-endpoint=127.0.0.1:0")
	s := &scene{t: t, box: box}
	s.makeCanary()
	s.driver = box.Start()
	s.wire = dial(t, box.Socket())
	for i, claim := range []orchestrator.Claim{
		{Name: "witness-ext4", Size: 64 * volume.MiB, FSType: volume.Ext4},
		{Name: "witness-xfs", Size: 300 * volume.MiB, FSType: volume.XFS},
		{Name: "witness-block", Size: 64 * volume.MiB, Block: true},
	} {
		s.witnesses = append(s.witnesses, s.newWitness(claim, uint64(i)))
	}
	for _, claim := range []orchestrator.Claim{
		{Name: "spare-ext4", Size: 64 * volume.MiB, FSType: volume.Ext4},
		{Name: "spare-xfs", Size: 300 * volume.MiB, FSType: volume.XFS},
		{Name: "spare-block", Size: 64 * volume.MiB, Block: true},
	} {
		v, err := s.driver.Create(t.Context(), claim)
		s.must(err)
		s.spares = append(s.spares, &witness{claim: claim, id: v.GetVolumeId()})
	}
	snapshot, err := s.driver.Snapshot(t.Context(), "witness-snapshot", s.witnesses[0].id)
	s.must(err)
	s.snapshot = snapshot.GetSnapshotId()
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) newWitness(claim orchestrator.Claim, seed uint64) *witness {
	s.t.Helper()
	ctx := s.t.Context()
	v, err := s.driver.Create(ctx, claim)
	s.must(err)
	w := &witness{claim: claim, id: v.GetVolumeId(), seed: seed}
	w.target, err = s.driver.Start(ctx, w.id, witnessPod, claim, false)
	s.must(err)
	w.data = w.target
	if !claim.Block {
		w.data = filepath.Join(w.target, "data")
	}
	s.must(workload.Write(w.data, seed, dataSize, true))
	return w
}

const witnessPod = "5b9d3c52-0f6e-4f0e-9d53-6a1b8f3f5c11"

// start remembers the box as it is now: the attacks begin.
func (s *scene) start() {
	s.t.Helper()
	syscall.Sync() // or the kernel changes times of files later
	before, err := observe(s.box)
	s.must(err)
	s.before = before
}

// end demands that the witnesses are intact, that the driver is the one that was
// started and stops in good order, and that it kept every secret.
func (s *scene) end() {
	s.t.Helper()
	for _, w := range s.witnesses {
		s.must(workload.Verify(w.data, w.seed, dataSize))
		s.must(workload.Write(w.data, w.seed+1, dataSize, true))
		s.must(workload.Verify(w.data, w.seed+1, dataSize))
	}
	s.checkSecrets()
	for _, w := range s.witnesses {
		s.must(s.driver.Client.Stop(s.t.Context(), w.id, witnessPod, w.claim))
	}
	s.driver.Stop()
	if log := s.driver.Log(); strings.Contains(log, "panicked") || strings.Contains(log, "goroutine ") {
		s.t.Error("the driver panicked; its log has the stack")
	}
}

// checkSecrets demands that the driver logged its calls and that no canary shows
// in the log, in what it answered, or in the metrics.
func (s *scene) checkSecrets() {
	s.t.Helper()
	log := s.driver.Log()
	if !strings.Contains(log, "method=NodePublishVolume") {
		s.t.Error("the driver's log has no calls in it")
	}
	for where, text := range map[string]string{
		"log": log, "errors": s.said.String(), "metrics": s.metrics(log), "records": s.records(), "loop devices and mounts": s.kernelTables(),
	} {
		for line := range strings.Lines(text) {
			if strings.Contains(line, canaryWord) {
				s.t.Errorf("a secret shows in the %s: %s", where, line)
			}
		}
	}
}

func (s *scene) metrics(log string) string {
	s.t.Helper()
	address := regexp.MustCompile(`serving health and metrics" endpoint=(\S+)`).FindStringSubmatch(log)
	if address == nil {
		s.t.Fatal("the driver's log does not say where its metrics are")
	}
	resp, err := http.Get("http://" + address[1] + "/metrics")
	s.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	s.must(err)
	if !strings.Contains(string(text), "csi_plugin_operations_seconds_count") {
		s.t.Errorf("the metrics have no calls in them:\n%s", text)
	}
	http.DefaultClient.CloseIdleConnections()
	return string(text)
}

// canaryDir is the tree outside the driver's directories.
func canaryDir(box *harness.Box) string { return filepath.Join(box.Dir, "canary") }

// makeCanary makes the canary tree, and in kubelet's directory the traps: links
// to it and what else may lie at a target.
func (s *scene) makeCanary() {
	s.t.Helper()
	dir := canaryDir(s.box)
	for _, d := range []string{dir, dir + "/dir", dir + "/dir/empty", dir + "/volumes"} {
		s.must(os.Mkdir(d, 0o755))
	}
	for _, f := range []string{dir + "/file", dir + "/dir/file", dir + "/dir/.hidden"} {
		s.must(os.WriteFile(f, []byte("canary "+f), 0o640))
	}
	s.must(os.WriteFile(dir+"/empty", nil, 0o600))
	s.must(os.Chmod(dir+"/dir/file", 0o4755))
	s.must(os.Symlink("file", dir+"/link"))

	traps := s.traps()
	s.must(os.Mkdir(traps, 0o750))
	// Where kubelet would put the targets and the stagings of the attacks.
	for _, d := range []string{s.box.Kubelet() + "/pods/attacker", s.box.Kubelet() + "/plugins/attacker"} {
		s.must(os.MkdirAll(d, 0o750))
	}
	for name, to := range map[string]string{
		"link-to-dir":      dir + "/dir",
		"link-to-file":     dir + "/file",
		"link-to-empty":    dir + "/empty",
		"link-to-root":     "/",
		"link-up":          "../..",
		"link-to-nothing":  dir + "/made-by-the-driver",
		"link-inside":      s.box.Kubelet(),
		"link-to-itself":   traps + "/link-to-itself",
		"link-to-pool":     s.box.Pools(),
		"link-to-proc":     "/proc/self/root",
		"link-to-device":   "/dev/null",
		"link-to-emptydir": dir + "/dir/empty",
	} {
		s.must(os.Symlink(to, filepath.Join(traps, name)))
	}
	s.must(os.WriteFile(traps+"/file", []byte("not a target"), 0o600))
	s.must(os.Mkdir(traps+"/full", 0o750))
	s.must(os.WriteFile(traps+"/full/file", []byte("not a target"), 0o600))
	s.must(syscall.Mkfifo(traps+"/fifo", 0o600))
}

// target and staging are paths that kubelet could give.
func (s *scene) target() string { return filepath.Join(s.box.Kubelet(), "pods/attacker/mount") }
func (s *scene) staging() string {
	return filepath.Join(s.box.Kubelet(), "plugins/attacker/globalmount")
}

// traps is the directory of traps below kubelet's.
func (s *scene) traps() string { return filepath.Join(s.box.Kubelet(), "traps") }
