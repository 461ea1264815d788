package e2e

import (
	"testing"

	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// snapshotClass makes a VolumeSnapshotClass of the scene from that of deploy and
// what change does to it, and returns its name. It is no default.
func (s *scene) snapshotClass(suffix string, change func(*snapv1.VolumeSnapshotClass)) string {
	s.t.Helper()
	classes := s.snap.SnapshotV1().VolumeSnapshotClasses()
	class, err := classes.Get(s.ctx, classSnapshot, metav1.GetOptions{})
	s.must(err)
	class.ObjectMeta = metav1.ObjectMeta{Name: s.ns + "-" + suffix, Labels: map[string]string{sceneLabel: s.ns}}
	change(class)
	_, err = classes.Create(s.ctx, class, metav1.CreateOptions{})
	s.must(err)
	return class.Name
}

// askForSnapshot makes a VolumeSnapshot and does not wait for it. "" is no class.
func (s *scene) askForSnapshot(name, claim, class string) {
	s.t.Helper()
	spec := snapv1.VolumeSnapshotSpec{Source: snapv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim}}
	if class != "" {
		spec.VolumeSnapshotClassName = &class
	}
	_, err := s.snap.SnapshotV1().VolumeSnapshots(s.ns).Create(s.ctx, &snapv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	s.must(err)
}

// failedSnapshot waits until a snapshot says that it failed, and returns why.
func (s *scene) failedSnapshot(name string) string {
	s.t.Helper()
	failed := await(s, aWhile, one(s.snap.SnapshotV1().VolumeSnapshots(s.ns), name), "says what is wrong", func(v *snapv1.VolumeSnapshot) bool {
		return v.Status != nil && v.Status.Error != nil && v.Status.Error.Message != nil
	})
	return *failed.Status.Error.Message
}

// TestSnapshotClasses takes snapshots by the default class and by a second one, with
// other parameters and another policy, and shows what a user reads when there are
// two defaults, and of a class that is wrong. It is not parallel: it makes a second
// default.
func TestSnapshotClasses(t *testing.T) {
	s := newScene(t)
	s.claim(newClaim("app", classExt4, small))
	app := s.run(journaling("app", "app"))
	app.write("/data/file", 1)
	before := app.goesOn(5)
	byDefault := s.createSnapshot("by-default", "", snapv1.VolumeSnapshotSource{PersistentVolumeClaimName: ptrTo("app")})
	if byDefault.Spec.VolumeSnapshotClassName == nil || *byDefault.Spec.VolumeSnapshotClassName != classSnapshot {
		t.Errorf("a snapshot without a class got %v, want %s", byDefault.Spec.VolumeSnapshotClassName, classSnapshot)
	}
	crash := s.snapshotClass("crash", func(c *snapv1.VolumeSnapshotClass) {
		c.Parameters = map[string]string{"consistency": "crash"}
		c.DeletionPolicy = snapv1.VolumeSnapshotContentRetain
	})
	s.snapshot("by-second", "app", crash)
	after := app.goesOn(5)
	if policy := s.contentOf("by-second").Spec.DeletionPolicy; policy != snapv1.VolumeSnapshotContentRetain {
		t.Errorf("the snapshot of a class that retains has the policy %s", policy)
	}
	for _, from := range []string{"by-default", "by-second"} {
		s.isInstant(s.runClaim(restoreOf(from, newClaim("of-"+from, classExt4, small))), before, after)
	}

	wrongValue := s.snapshotClass("wrong", func(c *snapv1.VolumeSnapshotClass) { c.Parameters = map[string]string{"consistency": "perfect"} })
	s.askForSnapshot("wrong-value", "app", wrongValue)
	s.step("a wrong value: %s", s.failedSnapshot("wrong-value"))
	s.says("the snapshot", s.failedSnapshot("wrong-value"), `code = InvalidArgument .*parameter consistency=\\?"perfect\\?": want filesystem, crash`)
	const unknown = `code = InvalidArgument .*parameter \\?"freeze\\?" is not known: known are consistency` // csi-snapshotter quotes it
	wrongKey := s.snapshotClass("unknown", func(c *snapv1.VolumeSnapshotClass) { c.Parameters = map[string]string{"freeze": "no"} })
	s.askForSnapshot("wrong-key", "app", wrongKey)
	s.says("the snapshot", s.failedSnapshot("wrong-key"), unknown)
	s.says("kubectl describe", s.kubectl("describe", "volumesnapshot", "wrong-key"), unknown)

	s.step("make a second default")
	second := s.snapshotClass("second-default", func(c *snapv1.VolumeSnapshotClass) {
		c.Annotations = map[string]string{"snapshot.storage.kubernetes.io/is-default-class": "true"}
	})
	s.askForSnapshot("undecided", "app", "")
	text := s.failedSnapshot("undecided")
	s.step("with two defaults a snapshot without a class says: %s", text)
	s.says("the snapshot", text, `2 default snapshot classes were found`)
	s.must(s.snap.SnapshotV1().VolumeSnapshotClasses().Delete(s.ctx, second, metav1.DeleteOptions{}))
	for _, name := range []string{"wrong-value", "wrong-key", "undecided"} {
		s.must(s.snap.SnapshotV1().VolumeSnapshots(s.ns).Delete(s.ctx, name, metav1.DeleteOptions{}))
	}
	// What is retained goes when its policy says so before its VolumeSnapshot goes.
	s.kubectl("patch", "volumesnapshotcontent", s.contentOf("by-second").Name, "--type=merge", "--patch", `{"spec":{"deletionPolicy":"Delete"}}`)
	app.stop()
}

func ptrTo[T any](v T) *T { return &v }

// TestABlockVolumeIsCopiedAndGrows clones and restores a raw block volume, into the
// same size and larger, and grows the copies while they are used.
func TestABlockVolumeIsCopiedAndGrows(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.claim(newBlockClaim("app", classExt4, small))
	app := s.run(idleOnDevice("app", "app"))
	app.write(dataDevice, 1)
	s.snapshot("instant", "app", classSnapshot)
	clone := s.runClaim(copyOf("app", newBlockClaim("clone", classExt4, small)))
	clone.verify(dataDevice, 1)
	app.write(dataDevice, 2)
	clone.write(dataDevice, 3)
	restored := s.runClaim(restoreOf("instant", newBlockClaim("restored", classExt4, "192Mi")))
	restored.verify(dataDevice, 1)
	for _, p := range []*pod{clone, restored, app} {
		s.edit(p.name, "256Mi")
		p.growsTo("256Mi")
		if have := p.space(dataDevice); size(have) != "268435456" {
			t.Errorf("pod %s sees a device of %s after it grew to 256Mi", p.name, have)
		}
	}
	s.snapshot("grown", "clone", classSnapshot)
	s.runClaim(restoreOf("grown", newBlockClaim("again", classExt4, "256Mi"))).verify(dataDevice, 3)
	app.verify(dataDevice, 2)
	restored.verify(dataDevice, 1)
}

// TestACopyKeepsTheModeOfItsSource wants a filesystem of what a block volume has,
// and the reverse, of snapshots and of volumes. Kubernetes refuses it; and where an
// administrator has allowed it, the driver does.
func TestACopyKeepsTheModeOfItsSource(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	class := s.immediate(classExt4)
	s.claim(newClaim("files", class, small))
	s.claim(newBlockClaim("device", class, small))
	for claim, c := range map[string]struct {
		other func(name, class, size string) *corev1.PersistentVolumeClaim
		says  string
	}{
		"files":  {newBlockClaim, `the source is a filesystem volume, it cannot become a block volume`},
		"device": {newClaim, `the source is a block volume, it cannot become a filesystem volume`},
	} {
		s.awaitClaim(claim, "is bound", bound)
		s.snapshot(claim, claim, classSnapshot)
		s.claim(restoreOf(claim, c.other("restored-"+claim, class, small)))
		event := s.awaitEvent("restored-"+claim, "ProvisioningFailed", `modifies the mode of the source volume but does not have permission`)
		s.step("a restore in another mode: %s", event.Message)
		s.kubectl("annotate", "volumesnapshotcontent", s.contentOf(claim).Name, "snapshot.storage.kubernetes.io/allow-volume-mode-change=true")
		event = s.awaitEvent("restored-"+claim, "ProvisioningFailed", `code = InvalidArgument .*`+c.says)
		s.step("and with the administrator's consent: %s", event.Message)
		s.claim(copyOf(claim, c.other("cloned-"+claim, class, small)))
		event = s.awaitEvent("cloned-"+claim, "ProvisioningFailed", `must have the same volume mode for cloning`)
		s.step("a clone in another mode: %s", event.Message)
		for _, name := range []string{"restored-" + claim, "cloned-" + claim} {
			if now := s.awaitClaim(name, "is there", func(*corev1.PersistentVolumeClaim) bool { return true }); bound(now) {
				t.Errorf("claim %s got a volume:\n%s", name, asYAML(now))
			}
		}
	}
}
