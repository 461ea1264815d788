package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// freezeTimeout is the --freeze-timeout of the manifests.
	freezeTimeout = 10 * time.Second
	// thawMargin is what the freeze watchdog may need beyond that: a second that it
	// gives the driver, a quarter until it looks, and a busy machine. Nobody else would
	// thaw in that time.
	thawMargin = 15 * time.Second
)

// TestAWriterGoesOnWhenTheDriverDiesWhileItsFilesystemIsFrozen kills the driver
// between FIFREEZE and FITHAW. Kubelet is stopped, so nobody starts it again, and
// the watchdog alone can thaw.
func TestAWriterGoesOnWhenTheDriverDiesWhileItsFilesystemIsFrozen(t *testing.T) {
	s := newScene(t)
	normal := s.driverTemplate()
	f := s.freezes("60s", classExt4)
	s.must(s.cluster.StopKubelet(s.ctx))
	s.afterwards(func(late *scene) { late.must(late.cluster.StartKubelet(late.ctx)) })

	f.requestSnapshot()
	frozen := time.Now()
	s.signal(f.driver, syscall.SIGKILL)
	f.awaitGrowth(freezeTimeout + thawMargin)
	s.step("the writer goes on %s after the freeze, with the driver dead and kubelet stopped", time.Since(frozen).Round(time.Millisecond))
	f.thawedByWatchdog("a driver that died had left")

	s.setDriver(normal)
	s.must(s.cluster.StartKubelet(s.ctx))
	s.awaitRollout()
	f.check()
}

// TestAWriterGoesOnWhenTheDriverHangsWhileItsFilesystemIsFrozen stops the driver
// there and lets it go on later. What it copied was not frozen throughout then, and
// must not become the snapshot.
func TestAWriterGoesOnWhenTheDriverHangsWhileItsFilesystemIsFrozen(t *testing.T) {
	s := newScene(t)
	f := s.freezes("8s", classXFS)
	asked := time.Now() // the freeze is later, so a slow machine cannot make it look too short
	f.requestSnapshot()
	s.signal(f.driver, syscall.SIGSTOP)
	resume := func(late *scene) {
		// It may be another one by now, which does no harm.
		late.signal(late.driverPod(), syscall.SIGCONT)
	}
	s.afterwards(resume)
	f.awaitGrowth(freezeTimeout + thawMargin)
	thawed := time.Since(asked)
	s.step("the writer goes on %s after the snapshot was asked for, with the driver stopped", thawed.Round(time.Millisecond))
	if thawed < freezeTimeout {
		t.Errorf("the filesystem of a driver that lives was thawed %s after the snapshot was asked for, the freeze has %s", thawed, freezeTimeout)
	}
	f.thawedByWatchdog("by a driver that lives but does not thaw it")
	resume(s)
	f.check()
	if text := s.nodeLog(f.driver, driverContainer); !strings.Contains(text, "the copy is not used") {
		t.Errorf("the driver does not say that it gave up its first copy:\n%s", text)
	}
}

// freezing is a writer, a driver that pauses while it has the writer's filesystem
// frozen for a snapshot, and that snapshot.
type freezing struct {
	s      *scene
	writer *writer
	class  string
	driver *corev1.Pod
	before progress // of the writer, before the snapshot was asked for
}

const snapshotName = "instant"

// freezes starts a writer, and replaces the driver by one that is built to pause
// this long when it has frozen a filesystem for the first time. The watchdog is the
// normal one.
func (s *scene) freezes(pause, class string) *freezing {
	s.t.Helper()
	const failing = driverImage + ":v0.1.0-failpoint"
	s.must(s.cluster.BuildDriverImage(s.ctx, failing, "failpoint"))
	s.afterwards(func(late *scene) { late.must(late.cluster.RemoveImage(late.ctx, failing)) })
	s.keepDriver()
	f := &freezing{s: s, class: class}
	s.claim(newClaim("app", class, smallOf(class)))
	f.writer = &writer{pod: s.run(journaling("app", "app")), claim: "app", where: dataDir}
	f.writer.write("/data/file", 1)
	f.driver = s.changeDriver(func(spec *corev1.PodSpec) {
		driver := container(spec, driverContainer)
		driver.Image = failing
		driver.Env = append(driver.Env, corev1.EnvVar{Name: "HOLDFAST_FAILPOINT", Value: "freeze/frozen=sleep:" + pause})
	})
	f.writer.goesOn(5)
	f.writer.held = f.writer.holding()
	f.before = f.writer.progress()
	return f
}

// requestSnapshot asks for a snapshot and waits until the driver says that it has
// frozen the filesystem, and the writer stands still.
func (f *freezing) requestSnapshot() {
	s := f.s
	s.t.Helper()
	class, claim := classSnapshot, "app"
	_, err := s.snap.SnapshotV1().VolumeSnapshots(s.ns).Create(s.ctx, &snapv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: snapshotName},
		Spec: snapv1.VolumeSnapshotSpec{
			Source:                  snapv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim},
			VolumeSnapshotClassName: &class,
		},
	}, metav1.CreateOptions{})
	s.must(err)
	s.until(aWhile, "the driver has frozen the filesystem", func() bool {
		return strings.Contains(s.nodeLog(f.driver, driverContainer), "failpoint freeze/frozen")
	})
	size := f.size()
	time.Sleep(200 * time.Millisecond)
	if now := f.size(); now != size {
		s.t.Fatalf("the journal grew from %d to %d bytes while its filesystem should be frozen", size, now)
	}
	s.step("the filesystem is frozen")
}

// size is that of the journal, seen from the node: that needs no kubelet.
func (f *freezing) size() int64 {
	f.s.t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d/root%s/journal-1", f.writer.held.PID, dataDir))
	f.s.must(err)
	return info.Size()
}

func (f *freezing) awaitGrowth(patience time.Duration) {
	f.s.t.Helper()
	size := f.size()
	f.s.until(patience, "the writer goes on", func() bool { return f.size() > size })
}

// thawedByWatchdog demands that it was the watchdog, which says so.
func (f *freezing) thawedByWatchdog(how string) {
	s := f.s
	s.t.Helper()
	pv := s.volumeOf("app")
	s.until(aWhile, "the watchdog says what it did", func() bool {
		text := s.nodeLog(f.driver, watchdogContainer)
		return strings.Contains(text, "reason=FreezeThawed") && strings.Contains(text, pv.Spec.CSI.VolumeHandle) && strings.Contains(text, how)
	})
}

// check demands that the snapshot gets ready all the same, is one instant of the
// volume, and that the writer has its volume as it was.
func (f *freezing) check() {
	s, w := f.s, f.writer
	s.t.Helper()
	await(s, aWhile, one(s.snap.SnapshotV1().VolumeSnapshots(s.ns), snapshotName), "is ready to use", readyToUse)
	s.step("the snapshot is ready")
	after := w.progress()
	w.goesOn(20)
	if longest := w.progress().Longest; longest > freezeTimeout+thawMargin {
		s.t.Errorf("the writer stood for %s, want %s at most", longest, freezeTimeout+thawMargin)
	} else {
		s.step("the writer's longest gap: %s", longest.Round(time.Millisecond))
	}
	s.claim(restoreOf(snapshotName, newClaim("restored", f.class, smallOf(f.class))))
	s.isInstant(s.run(idle("restored", "restored")), f.before, after)
	if now := w.holding(); now.Pod != w.held.Pod || now.PID != w.held.PID || now.Loop != w.held.Loop {
		s.t.Errorf("the writer's volume was %+v and is %+v", w.held, now)
	}
	w.finish()
}

func readyToUse(v *snapv1.VolumeSnapshot) bool {
	return v.Status != nil && v.Status.ReadyToUse != nil && *v.Status.ReadyToUse
}
