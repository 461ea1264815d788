package e2e

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestTheDriverIsUpgradedAndRolledBack goes from the driver before this one to this
// one, back, and forth again, while pods write. What each of the two has made, the
// other serves, copies, grows and deletes.
func TestTheDriverIsUpgradedAndRolledBack(t *testing.T) {
	s := newScene(t)
	commit := cmp.Or(os.Getenv("HOLDFAST_E2E_PREVIOUS"), s.cluster.PreviousDriver(s.ctx))
	if commit == "" {
		t.Skip("it needs the commit before this one: the history is not here (git fetch --unshallow)")
	}
	const version = "v0.0.1-before"
	s.step("the driver before this one is that of %s", commit)
	manifests, err := s.cluster.BuildDriverImageAt(s.ctx, driverImage+":"+version, commit)
	s.must(err)
	s.afterwards(func(late *scene) { late.must(late.cluster.RemoveImage(late.ctx, driverImage+":"+version)) })
	s.keepDriver()
	this := s.driverTemplate()
	before := s.asBefore(this, manifests, driverImage+":"+version)

	s.setDriver(before)
	if log := s.nodeLog(s.awaitRollout(), driverContainer); !strings.Contains(log, "version="+version) {
		t.Fatalf("the driver does not say that it is the one before:\n%s", log)
	}
	writers := s.writers()
	old := s.runClaim(newClaim("old", classExt4, small))
	old.write("/data/file", 1)
	s.snapshot("of-old", "old", classSnapshot)
	old.write("/data/file", 2)

	s.undisturbed(writers, "the driver is upgraded", func() {
		s.setDriver(this)
		s.awaitRollout()
	})
	s.runClaim(restoreOf("of-old", newClaim("new", classExt4, "192Mi"))).verify("/data/file", 1)
	old.verify("/data/file", 2)
	xfs := writers[slices.IndexFunc(writers, func(w *writer) bool { return w.claim == "xfs" })]
	s.edit("xfs", "512Mi")
	xfs.growsTo("512Mi")
	xfs.held = xfs.holding()
	fresh := s.runClaim(newClaim("fresh", classXFS, smallXFS))
	fresh.write("/data/file", 3)
	s.snapshot("of-fresh", "fresh", classSnapshot)
	s.snapshot("of-writer", "xfs", classSnapshot)

	s.undisturbed(writers, "the driver is rolled back", func() {
		s.setDriver(before)
		s.awaitRollout()
	})
	s.runClaim(restoreOf("of-fresh", newClaim("again", classXFS, smallXFS))).verify("/data/file", 3)
	fresh.delete()
	s.run(idle("fresh", "fresh")).verify("/data/file", 3)
	s.deleteSnapshot("of-fresh")
	s.deleteSnapshot("of-old")

	s.undisturbed(writers, "the driver is upgraded again", func() {
		s.setDriver(this)
		s.awaitRollout()
	})
	s.runClaim(restoreOf("of-writer", newClaim("restored", classXFS, "512Mi"))).journals(dataDir)
	(&pod{s: s, name: "again"}).verify("/data/file", 3)
	old.verify("/data/file", 2)
	if text, err := s.inDriver("pool", "check", "default", "--filesystems=false"); err != nil {
		t.Errorf("driver pool check: %v\n%s", err, text)
	}
	for _, w := range writers {
		w.finish()
	}
}

// asBefore is a template with the image and the arguments that the driver had in
// older manifests. The pools stay those of this cluster.
func (s *scene) asBefore(now corev1.PodTemplateSpec, manifests, image string) corev1.PodTemplateSpec {
	s.t.Helper()
	var then appsv1.DaemonSet
	for document := range strings.SplitSeq(manifests, "\n---\n") {
		if strings.Contains(document, "kind: DaemonSet") {
			s.must(yaml.Unmarshal([]byte(document), &then))
		}
	}
	if len(then.Spec.Template.Spec.Containers) == 0 {
		s.t.Fatalf("the older manifests have no DaemonSet:\n%s", manifests)
	}
	ofCluster := func(arg string) bool {
		return strings.HasPrefix(arg, "--pool") || strings.HasPrefix(arg, "--host-reserve")
	}
	out := *now.DeepCopy()
	for _, name := range []string{claimContainer, watchdogContainer, driverContainer} {
		c := container(&out.Spec, name)
		own := slices.DeleteFunc(slices.Clone(c.Args), func(a string) bool { return !ofCluster(a) })
		c.Image = image
		c.Args = slices.Concat(slices.DeleteFunc(slices.Clone(container(&then.Spec.Template.Spec, name).Args), ofCluster), own)
	}
	return out
}
