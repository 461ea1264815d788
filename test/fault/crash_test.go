package fault

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

const (
	poolSize  = 8 * volume.GiB
	dataSize  = 8 * volume.MiB
	killWait  = 30 * time.Second
	callLimit = time.Minute
)

// world is a box with a witness: a pod that writes to its volume through every
// crash and must never see an error.
type world struct {
	t       *testing.T
	box     *harness.Box
	driver  *harness.Driver
	journal *workload.Journal
	witness string // id of its volume
}

const witnessPod = "witness-0"

var witnessClaim = orchestrator.Claim{Name: "witness", Size: 512 * volume.MiB, FSType: volume.XFS}

func newWorld(t *testing.T, wrap ...string) *world {
	t.Helper()
	w := &world{t: t, box: harness.NewBox(t, poolSize)}
	w.box.Wrap = wrap
	return w
}

// begin starts the driver and the witness.
func (w *world) begin() {
	w.t.Helper()
	w.driver = w.box.Start()
	ctx := w.t.Context()
	v, err := w.driver.Create(ctx, witnessClaim)
	w.must(err)
	w.witness = v.GetVolumeId()
	target, err := w.driver.Start(ctx, w.witness, witnessPod, witnessClaim, false)
	w.must(err)
	w.journal, err = workload.StartJournal(filepath.Join(target, "journal"))
	w.must(err)
	w.must(w.journal.WaitAcked(10, 10*time.Second))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// checkWitness demands that the witness still writes.
func (w *world) checkWitness() error {
	n, err := w.journal.Acked()
	if err != nil {
		return fmt.Errorf("the witness: %w", err)
	}
	return w.journal.WaitAcked(n+5, 10*time.Second)
}

// end stops the witness, checks what it wrote, and demands that nothing is left.
func (w *world) end() {
	w.t.Helper()
	acked, err := w.journal.Stop()
	w.must(err)
	n, err := workload.VerifyJournal(filepath.Join(w.driver.TargetPath(w.witness, witnessPod, false), "journal"))
	w.must(err)
	if n != acked {
		w.t.Errorf("the witness had %d records acknowledged, its volume has %d", acked, n)
	}
	ctx := context.Background()
	w.must(w.driver.Client.Stop(ctx, w.witness, witnessPod, witnessClaim))
	w.must(w.driver.Delete(ctx, w.witness))
	w.t.Logf("the witness wrote %d records and saw no error", acked)
	w.mustBeClean()
	w.driver.Stop()
}

// mustBeClean demands that the box holds nothing but the pool itself and the
// witness, if it is there.
func (w *world) mustBeClean() {
	w.t.Helper()
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if left = w.leftovers(); len(left) == 0 {
			return
		}
	}
	w.t.Fatalf("left over: %v\n%s", left, w.driver.Log())
}

func (w *world) leftovers() []string {
	var out []string
	pool := filepath.Join(w.box.Pools(), "pool")
	for _, dir := range []string{".staging", ".trash", ".quarantine", "snapshots", "volumes"} {
		entries, err := os.ReadDir(filepath.Join(pool, dir))
		if err != nil {
			out = append(out, err.Error())
		}
		for _, e := range entries {
			if e.Name() != w.witness {
				out = append(out, dir+"/"+e.Name())
			}
		}
	}
	intents, err := os.ReadDir(filepath.Join(w.box.State(), "freeze"))
	if err != nil {
		out = append(out, err.Error())
	}
	for _, e := range intents {
		out = append(out, "freeze intent "+e.Name())
	}
	return append(out, w.strangers()...)
}

// strangers are the loops and mounts in the box that neither the pool nor the
// witness explains.
func (w *world) strangers() []string {
	var out []string
	loops, err := loopsOf(w.box.Dir)
	if err != nil {
		return []string{err.Error()}
	}
	for _, l := range loops {
		if !slices.Contains([]string{"pools/pool.img", "pools/pool/volumes/" + w.witness + "/data/disk.img", "volumes/" + w.witness + "/data/disk.img"}, l) {
			out = append(out, "loop on "+l)
		}
	}
	mounts, err := mount.List()
	if err != nil {
		return append(out, err.Error())
	}
	for _, m := range mounts {
		rel, err := filepath.Rel(w.box.Dir, m.Path)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		switch m.Path {
		case w.box.Kubelet(), w.box.Pools(), filepath.Join(w.box.Pools(), "pool"),
			w.driver.StagingPath(w.witness), w.driver.TargetPath(w.witness, witnessPod, false):
		default:
			out = append(out, "mount on "+rel)
		}
	}
	return out
}

// crash runs one operation as often as it has steps, and kills the driver at
// another one each time.
func (w *world) crash(op operation) {
	w.t.Helper()
	steps := w.learn(op)
	w.t.Logf("%s: %d steps: %v", op.name, len(steps), steps)
	if len(steps) == 0 {
		w.t.Fatalf("%s meets no step", op.name)
	}
	seen := map[string]int{}
	for i, step := range steps {
		seen[step]++
		point := fmt.Sprintf("%s:%d=kill", step, seen[step])
		if err := w.crashAt(op, fmt.Sprintf("%s-%d", op.name, i), point); err != nil {
			w.t.Fatalf("%s killed at %s: %v\n%s", op.name, point, err, w.driver.Log())
		}
	}
}

// learn runs an operation in peace and returns the steps it met. The driver is
// stopped before, so that the count starts with the operation.
func (w *world) learn(op operation) []string {
	w.t.Helper()
	s := &subject{world: w, name: op.name + "-learn"}
	w.must(op.setUp(w.t.Context(), s))
	w.restart("")
	w.must(op.call(w.t.Context(), s))
	steps := slices.DeleteFunc(w.driver.Steps(), func(step string) bool {
		return strings.HasPrefix(step, "guard/") // of the background, at any time
	})
	w.must(op.check(w.t.Context(), s))
	w.must(op.tearDown(w.t.Context(), s))
	w.mustBeClean()
	return steps
}

func (w *world) restart(failpoint string) {
	w.t.Helper()
	w.driver.Stop()
	w.driver = w.box.StartWith(failpoint)
}

func (w *world) crashAt(op operation, name, point string) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), callLimit)
	defer cancel()
	s := &subject{world: w, name: name}
	if err := op.setUp(ctx, s); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	w.restart(point)
	inBackground := strings.HasPrefix(point, "empty-trash/") // the call may be answered before
	if err := op.call(ctx, s); err == nil && !inBackground {
		return fmt.Errorf("the call succeeded although the driver was to die in it")
	}
	if err := w.driver.WaitKilled(killWait); err != nil {
		return err
	}
	w.driver = w.box.Start()
	if err := w.checkWitness(); err != nil {
		return fmt.Errorf("after the start: %w", err)
	}
	if err := op.call(ctx, s); err != nil {
		return fmt.Errorf("the same call again: %w", err)
	}
	if err := op.check(ctx, s); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := op.tearDown(ctx, s); err != nil {
		return fmt.Errorf("tear down: %w", err)
	}
	w.mustBeClean()
	return w.checkWitness()
}

func TestKilledAtEveryStepLosesNothingAndLeavesNothing(t *testing.T) {
	harness.OnEachFilesystem(t, killedAtEveryStep)
}

func killedAtEveryStep(t *testing.T, flag string) {
	w := newWorld(t)
	w.box.Flags = append(w.box.Flags, flag)
	w.begin()
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			outer := w.t
			w.t = t
			defer func() { w.t = outer }()
			w.crash(op)
		})
		if t.Failed() {
			return
		}
	}
	w.end()
}
