package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestASnapshotOfARunningWriterIsAnInstant(t *testing.T) {
	t.Parallel()
	for _, class := range []string{classExt4, classXFS} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.claim(newClaim("app", class, smallOf(class)))
			app := s.run(journaling("app", "app"))
			app.write("/data/file", 1)
			before := app.goesOn(20)
			s.snapshot("instant", "app", classSnapshot)
			after := app.progress()
			app.goesOn(20)
			s.step("longest gap between two records: %s", app.progress().Longest)
			app.write("/data/file", 2)

			s.claim(restoreOf("instant", newClaim("same", class, smallOf(class))))
			s.isInstant(s.run(idle("same", "same")), before, after)
			larger := restoreOf("instant", newClaim("larger", class, "512Mi"))
			s.claim(larger)
			restored := s.run(idle("larger", "larger"))
			s.isInstant(restored, before, after)
			s.hasRoom(restored, "512Mi")
			app.verify("/data/file", 2)
			app.stop()
		})
	}
}

// isInstant demands that a pod has the pattern 1 and a journal that ended between
// two observations of its writer.
func (s *scene) isInstant(p *pod, before, after progress) {
	s.t.Helper()
	p.verify("/data/file", 1)
	// One record may have been written and not yet counted.
	if n := p.journals(dataDir)["journal-1"]; n < before.Records || n > after.Records+1 {
		s.t.Errorf("pod %s has %d records, the writer had %d before and %d after the copy was taken", p.name, n, before.Records, after.Records)
	}
}

func TestARestoreIsBoundWithoutAPodToo(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newClaim("app", classExt4, small))
	app.write("/data/file", 1)
	s.snapshot("instant", "app", classSnapshot)
	app.write("/data/file", 2)
	s.claim(restoreOf("instant", newClaim("restored", s.immediate(classExt4), "192Mi")))
	s.awaitClaim("restored", "is bound", bound)
	restored := s.run(idle("restored", "restored"))
	restored.verify("/data/file", 1)
	s.hasRoom(restored, "192Mi")
}

func TestASnapshotOfABlockVolumeHasWhatWasWritten(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newBlockClaim("app", classExt4, small))
	app.write(dataDevice, 1)
	s.snapshot("instant", "app", classSnapshot)
	app.write(dataDevice, 2)
	restored := s.runClaim(restoreOf("instant", newBlockClaim("restored", classExt4, "256Mi")))
	restored.verify(dataDevice, 1)
	if have := restored.space(dataDevice); have != 256*volume.MiB {
		t.Errorf("the restored device has %s, its claim 256Mi", have)
	}
	app.verify(dataDevice, 2)
}

func TestACloneIsIndependentOfItsSource(t *testing.T) {
	t.Parallel()
	for _, class := range []string{classExt4, classXFS} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.claim(newClaim("app", class, smallOf(class)))
			app := s.run(journaling("app", "app"))
			app.write("/data/file", 1)
			before := app.goesOn(20)
			clone := s.runClaim(copyOf("app", newClaim("clone", class, "384Mi")))
			s.isInstant(clone, before, app.progress())
			s.hasRoom(clone, "384Mi")
			clone.write("/data/file", 2)
			app.verify("/data/file", 1)
			app.write("/data/file", 3)
			clone.verify("/data/file", 2)
			app.goesOn(20)
			app.stop()
		})
	}
}

func TestACopyMayNotBeSmaller(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newClaim("app", classExt4, small))
	app.write("/data/file", 1)
	s.snapshot("instant", "app", classSnapshot)
	s.claim(restoreOf("instant", newClaim("smaller", classExt4, "64Mi")))
	waiting := s.create(idle("smaller", "smaller"))
	s.awaitEvent("smaller", "ProvisioningFailed", "64Mi|64 MiB|67108864")
	waiting.await("waits", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodPending })
}
