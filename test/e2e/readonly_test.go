package e2e

import (
	"fmt"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// refuses demands that a command in a pod fails, and says so.
func (p *pod) refuses(says string, command ...string) {
	p.s.t.Helper()
	out, err := p.s.execute(p.name, mainContainer, command...)
	if err == nil {
		p.s.t.Errorf("pod %s: %q succeeds and says %q", p.name, command, out)
	} else if !regexp.MustCompile(says).MatchString(err.Error()) {
		p.s.t.Errorf("pod %s: %q ends with %v, want %s", p.name, command, err, says)
	}
}

// refusesWrites demands that nothing can be written to a volume: not to a file that
// is there, not by a new one, not by a change of its root; or not to a device.
func (p *pod) refusesWrites(where string) {
	p.s.t.Helper()
	if where == dataDevice {
		p.refuses("(?i)operation not permitted|permission denied|read-only", workloadProgram, "write", dataDevice, "4096", "9")
		return
	}
	const readOnly = "(?i)read-only file system"
	p.refuses(readOnly, workloadProgram, "write", where+"/file", "4096", "9")
	p.refuses(readOnly, "/bin/busybox", "touch", where+"/new")
	p.refuses(readOnly, "/bin/busybox", "chmod", "700", where)
	p.refuses(readOnly+"|(?i)permission denied|operation not permitted", "/bin/busybox", "mount", "-o", "remount,rw", where)
}

func TestAPodMayHaveItsVolumeReadOnly(t *testing.T) {
	t.Parallel()
	for _, class := range []string{classExt4, classXFS} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.claim(newClaim("app", class, smallOf(class)))
			// By the claim in the pod, and by the mount in the container, before and
			// beside one that writes.
			first := s.run(readingClaim("first", "app"))
			first.refusesWrites(dataDir)
			app := s.run(journaling("app", "app"))
			app.write("/data/file", 1)
			mounted := idle("mounted", "app")
			mounted.Spec.Containers[0].VolumeMounts[0].ReadOnly = true
			for _, reader := range []*pod{first, s.run(readingClaim("second", "app")), s.run(mounted)} {
				reader.verify("/data/file", 1)
				reader.refusesWrites(dataDir)
			}
			app.write("/data/file", 2)
			first.verify("/data/file", 2)
			app.goesOn(5)
			app.stop()
		})
	}
}

// readingClaim is an idle pod that has the claim read-only.
func readingClaim(name, claim string) *corev1.Pod {
	p := idle(name, claim)
	p.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	return p
}

func TestManyPodsReadARestoredSnapshot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		class string
		block bool
	}{
		classExt4: {class: classExt4},
		classXFS:  {class: classXFS},
		"block":   {class: classExt4, block: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			claim := func(name string) *corev1.PersistentVolumeClaim {
				if c.block {
					return newBlockClaim(name, c.class, small)
				}
				return newClaim(name, c.class, smallOf(c.class))
			}
			where, file := dataDir, "/data/file"
			if c.block {
				where, file = dataDevice, dataDevice
			}
			app := s.runClaim(claim("app"))
			app.write(file, 1)
			s.snapshot("instant", "app", classSnapshot)
			app.write(file, 2)

			many := restoreOf("instant", claim("many"))
			many.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
			s.claim(many)
			var readers []*pod
			for i := range 3 {
				p := idle(fmt.Sprintf("reader-%d", i), "many")
				if c.block {
					p = idleOnDevice(fmt.Sprintf("reader-%d", i), "many")
				}
				readers = append(readers, s.create(p))
			}
			for _, p := range readers {
				p.await("runs", running)
				p.verify(file, 1)
				p.refusesWrites(where)
			}
			readers[0].delete()
			readers[1].verify(file, 1)
			app.verify(file, 2)
		})
	}
}

// TestABlockVolumeMayBeReadOnlyForOnePod has one pod write to a device that another
// one may only read.
func TestABlockVolumeMayBeReadOnlyForOnePod(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newBlockClaim("app", classExt4, small))
	app.write(dataDevice, 1)
	p := idleOnDevice("reader", "app")
	p.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	reader := s.run(p)
	reader.verify(dataDevice, 1)
	reader.refusesWrites(dataDevice)
	app.write(dataDevice, 2)
	app.verify(dataDevice, 2)
}
