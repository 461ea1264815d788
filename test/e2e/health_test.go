package e2e

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// troubleIsTold cuts the image of a volume and fills its pool, both behind the
// driver's back, and mends both again. The driver looks every 30 seconds or so; what
// it finds must be an event that names the object, a metric and a line of kubectl
// describe, and be over when it is mended.
func (p *twoPools) troubleIsTold() {
	s := p.s
	s.t.Helper()
	victim := s.runClaim(newClaim("victim", p.class, small))
	victim.write("/data/file", 4)
	victim.delete()
	s.detached("victim")
	handle := s.volumeOf("victim").Spec.CSI.VolumeHandle
	image := filepath.Join(diskDir, "volumes", handle, "data", "disk.img")
	s.step("cut the image of %s, and fill the disk", handle)
	restore := s.cut(image, volume.MiB)
	filler := filepath.Join(diskDir, "somebody-elses-file")
	s.afterwards(func(late *scene) { // the scene's end needs the room
		if err := os.Remove(filler); err != nil && !os.IsNotExist(err) {
			late.t.Error(err)
		}
	})
	s.fill(diskDir, filler)

	driver := s.driverPod()
	about := s.system()
	short := about.awaitEvent(driver.Name, "ImageTooShort", `^volume `+handle+` of pool disk: its image has 133169152 bytes, its record says 134217728: something cut it; restore a snapshot$`)
	full := about.awaitEvent(driver.Name, "PoolNearlyFull", `^pool disk: .* of .* are free; delete volumes or snapshots, or enlarge the pool$`)
	for _, e := range []*corev1.Event{short, full} {
		s.step("the event %s: %s", e.Reason, e.Message)
		if e.Type != corev1.EventTypeWarning || e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.UID != driver.UID {
			s.t.Errorf("the event is not a warning about the driver's pod:\n%s", asYAML(e))
		}
		s.reference("docs/reference/events.md", e.Reason)
	}
	// The commands of docs/reference/events.md.
	s.says("kubectl describe", s.kubectl("-n", driverNamespace, "describe", "pod", "-l", driverSelector), `Warning +ImageTooShort .* volume `+handle, `Warning +PoolNearlyFull .* pool disk`)
	s.says("kubectl get events", s.kubectl("-n", driverNamespace, "get", "events", "--field-selector", "source=holdfast"), "ImageTooShort", "PoolNearlyFull")
	p.conditions("1", handle)
	// A user asks by claim, and the driver speaks of handles: one command joins them
	// (docs/guides/troubleshooting.md).
	s.says("kubectl get pv", s.kubectl("get", "pv", "-o", "custom-columns=VOLUME:.spec.csi.volumeHandle,NAMESPACE:.spec.claimRef.namespace,CLAIM:.spec.claimRef.name"), `(?m)^`+handle+` +`+s.ns+` +victim`)
	// It is not served, and whoever wants it learns why.
	again := s.create(idle("again", "victim"))
	s.step("its pod: %s", s.awaitEvent("again", "FailedMount", `code = FailedPrecondition .*the image of `+handle+` has 133169152 bytes, its record says 134217728; it was cut by something else; restore a snapshot`).Message)
	p.app.verify("/data/file", 3)
	p.other.verify("/data/file", 2)

	s.step("mend both")
	restore()
	s.must(os.Remove(filler))
	about.awaitEvent(driver.Name, "Healed", `^volume `+handle+` of pool disk: ImageTooShort is over$`)
	about.awaitEvent(driver.Name, "Healed", `^pool disk: PoolNearlyFull is over$`)
	s.step("both are over")
	p.conditions("", handle)
	again.await("runs", running)
	again.verify("/data/file", 4)
}

// conditions demands that the metrics have this value for both troubles; "" is none.
func (p *twoPools) conditions(want, handle string) {
	s := p.s
	s.t.Helper()
	metrics := s.metrics()
	if have := sampleOf(metrics, "holdfast_volume_condition", `pool="disk"`, `volume="`+handle+`"`, `reason="ImageTooShort"`, `severity="lost"`); have != want {
		s.t.Errorf("holdfast_volume_condition of the volume is %q, want %q", have, want)
	}
	if have := sampleOf(metrics, "holdfast_pool_condition", `pool="disk"`, `reason="PoolNearlyFull"`, `severity="degraded"`); have != want {
		s.t.Errorf("holdfast_pool_condition of the pool is %q, want %q", have, want)
	}
	healthy := map[string]string{"": "1", "1": "0"}[want]
	if have := sampleOf(metrics, "holdfast_volume_healthy", `volume="`+handle+`"`); have != healthy {
		s.t.Errorf("holdfast_volume_healthy is %q, want %q", have, healthy)
	}
}

// detached waits until no loop device has the image of a claim's volume: a pod is gone
// before its volume is unstaged.
func (s *scene) detached(claim string) {
	s.t.Helper()
	handle := s.volumeOf(claim).Spec.CSI.VolumeHandle
	s.until(aWhile, "the volume is detached", func() bool { return !hasLoop(handle) })
}

// hasLoop reports whether a loop device has the image of a volume.
func hasLoop(handle string) bool {
	loops, err := loop.List()
	if err != nil {
		return true
	}
	for _, l := range loops {
		if strings.Contains(l.BackingPath, handle) {
			return true
		}
	}
	return false
}

// cut takes the end off a file, and returns what puts it back.
func (s *scene) cut(path string, end volume.Bytes) (restore func()) {
	s.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	s.must(err)
	defer f.Close()
	st, err := f.Stat()
	s.must(err)
	data, at := make([]byte, end), st.Size()-int64(end)
	_, err = f.ReadAt(data, at)
	s.must(err)
	s.must(f.Truncate(at))
	return func() {
		s.t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		s.must(err)
		_, err = f.WriteAt(data, at)
		s.must(err)
		s.must(f.Sync())
		s.must(f.Close())
	}
}

// fill allocates a file in a directory until its filesystem has a twentieth left.
func (s *scene) fill(dir, path string) {
	s.t.Helper()
	var st unix.Statfs_t
	s.must(unix.Statfs(dir, &st))
	bytes := int64(st.Bavail)*st.Bsize - int64(st.Blocks)*st.Bsize/20
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	s.must(err)
	defer f.Close()
	s.must(unix.Fallocate(int(f.Fd()), 0, 0, bytes))
	s.step("%s more are taken", volume.Bytes(bytes))
}
