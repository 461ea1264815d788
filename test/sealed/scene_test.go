package sealed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(podEnv); text != "" {
		if err := takeKeyHere(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	roottest.Main(m)
}

const dataSize = 4 * volume.MiB

// site is a machine with a pool, and the driver that runs on it.
type site struct {
	t      testing.TB
	ctx    context.Context
	box    *harness.Box
	driver *harness.Driver
}

// newSite makes a machine with the pool "default", and starts its driver.
func newSite(t testing.TB, poolSize volume.Bytes, flags ...string) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	s := &site{t: t, ctx: ctx, box: harness.NewBox(t, poolSize, flags...)}
	s.driver = s.box.Start()
	return s
}

// run runs a part of a test on this machine.
func (s *site) run(name string, part func(*site)) {
	s.t.(*testing.T).Run(name, func(t *testing.T) {
		inner := *s
		inner.t = t
		part(&inner)
		s.driver = inner.driver
	})
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// mustBe demands an error of a kind, and says what was tried if it is another.
func (s *site) mustBe(err, want error, trying string) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Errorf("%s: got %v, want %v", trying, err, want)
	}
}

// ext4 is a volume of the prototype.
type ext4 struct {
	Volume
	*site
	id    string
	claim orchestrator.Claim
}

// ext4 makes a volume that can be sealed, and stages it. The driver makes an ext4
// without the feature, so it is switched on in the image.
func (s *site) ext4(claim orchestrator.Claim) *ext4 {
	s.t.Helper()
	e := s.plain(claim)
	if claim.Snapshot == "" && claim.Volume == "" {
		if out, err := exec.CommandContext(s.ctx, "tune2fs", "-O", "encrypt", e.image()).CombinedOutput(); err != nil {
			s.t.Fatalf("tune2fs: %v: %s", err, out)
		}
	}
	e.stage()
	return e
}

// plain makes a volume as the driver does, and does not stage it.
func (s *site) plain(claim orchestrator.Claim) *ext4 {
	s.t.Helper()
	claim.FSType = volume.Ext4
	if claim.Size == 0 {
		claim.Size = 64 * volume.MiB
	}
	v, err := s.driver.Create(s.ctx, claim)
	s.must(err)
	id := v.GetVolumeId()
	e := &ext4{site: s, id: id, claim: claim, Volume: Volume{Staging: s.driver.StagingPath(id), Kubelet: s.box.Kubelet()}}
	return e
}

func (e *ext4) image() string {
	return filepath.Join(e.box.Pools(), "pool/volumes", e.id, "data/disk.img")
}

func (e *ext4) stage() {
	e.t.Helper()
	e.must(e.driver.Stage(e.ctx, e.id, e.claim))
}

func (e *ext4) unstage() {
	e.t.Helper()
	e.must(e.driver.Unstage(e.ctx, e.id))
}

func (e *ext4) target(pod string) string { return e.driver.TargetPath(e.id, pod, false) }

// publish shows the volume to a pod.
func (e *ext4) publish(keeper Keeper, pod string) string {
	e.t.Helper()
	target := e.target(pod)
	e.must(e.Publish(e.ctx, keeper, target))
	return target
}

func (e *ext4) unpublish(pod string) {
	e.t.Helper()
	e.must(e.Unpublish(e.ctx, e.target(pod)))
}

// end takes the volume away from a pod and unstages it.
func (e *ext4) end(pod string) {
	e.t.Helper()
	e.unpublish(pod)
	e.unstage()
}

// mustHaveKey demands a state of the key in the kernel.
func (e *ext4) mustHaveKey(want KeyStatus) {
	e.t.Helper()
	got, err := e.Status()
	e.must(err)
	if got != want {
		e.t.Errorf("the key is %s, want %s", got, want)
	}
}

// mustNotBeMounted demands that nothing is at a pod's target.
func (e *ext4) mustNotBeMounted(pod string) {
	e.t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	e.must(err)
	if bytes.Contains(text, []byte(" "+e.target(pod)+" ")) {
		e.t.Error("something is mounted at the target")
	}
}

// newKeeper is one that needs no Vault.
func newKeeper(t testing.TB) *Memory {
	t.Helper()
	m, err := NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// write and verify fill a file and compare it.
func (e *ext4) write(path string, seed uint64) {
	e.t.Helper()
	e.must(workload.Write(path, seed, dataSize, true))
}

func (e *ext4) verify(path string, seed uint64) {
	e.t.Helper()
	e.must(workload.Verify(path, seed, dataSize))
}

// sealedNames are the names in the encrypted directory as the staging mount shows
// them.
func (e *ext4) sealedNames() []string {
	e.t.Helper()
	entries, err := os.ReadDir(filepath.Join(e.Staging, DirName))
	e.must(err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	slices.Sort(names)
	return names
}

// count is how often a text is in a file.
func count(t testing.TB, path string, text []byte) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, rest := 0, []byte(nil)
	buf := make([]byte, 1<<20)
	for {
		got, err := f.Read(buf)
		all := append(rest, buf[:got]...)
		n += bytes.Count(all, text)
		rest = append([]byte(nil), all[max(0, len(all)-len(text)+1):]...)
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
