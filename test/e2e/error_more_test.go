package e2e

import (
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// codeIn finds the gRPC code that a sidecar or kubelet writes into an event.
var codeIn = regexp.MustCompile(`code = (\w+) desc = `)

// explains demands that kubectl describe shows a text about an object, and that
// docs/reference/errors.md has the code that it names.
func (s *scene) explains(kind, name, text string) {
	s.t.Helper()
	said := s.kubectl("describe", kind, name)
	s.says("kubectl describe "+kind+" "+name, said, text)
	for _, m := range codeIn.FindAllStringSubmatch(said, -1) {
		s.says("docs/reference/errors.md", s.read("docs/reference/errors.md"), "`"+codeName(m[1])+"`")
	}
}

// codeName is the name of a gRPC code in its specification, from that in Go.
func codeName(goName string) string {
	upper := regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(goName, "${1}_$2")
	out := make([]byte, len(upper))
	for i := range len(upper) {
		out[i] = upper[i]
		if upper[i] >= 'a' && upper[i] <= 'z' {
			out[i] -= 'a' - 'A'
		}
	}
	return string(out)
}

// TestWhatKubectlDescribeShowsOfACopy asks for copies that cannot be.
func TestWhatKubectlDescribeShowsOfACopy(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	class := s.immediate(classExt4)
	s.claim(newClaim("app", class, small))
	s.awaitClaim("app", "is bound", bound)
	s.snapshot("instant", "app", classSnapshot)

	s.askForSnapshot("of-nothing", "nothing", classSnapshot)
	s.step("a snapshot of no claim: %s", s.failedSnapshot("of-nothing"))
	s.explains("volumesnapshot", "of-nothing", `cannot get claim from snapshot`)
	s.claim(newClaim("waiting", classExt4, small))
	s.askForSnapshot("of-waiting", "waiting", classSnapshot)
	s.step("a snapshot of a claim without a volume: %s", s.failedSnapshot("of-waiting"))
	s.explains("volumesnapshot", "of-waiting", `the PVC waiting is not yet bound to a PV`)
	s.askForSnapshot("no-class", "app", "no-such-class")
	s.step("a snapshot of a class that is not there: %s", s.failedSnapshot("no-class"))
	s.explains("volumesnapshot", "no-class", `no-such-class.* not found`)

	xfs := s.immediate(classXFS)
	for name, c := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		says  string
	}{
		"no-snapshot": {restoreOf("no-such-snapshot", newClaim("no-snapshot", class, small)), `no-such-snapshot" not found`},
		"no-claim":    {copyOf("no-such-claim", newClaim("no-claim", class, small)), `no-such-claim.* not found`},
		"smaller":     {restoreOf("instant", newClaim("smaller", class, "64Mi")), `requested volume size 67108864 is less than the size 134217728 for the source snapshot`},
		"clone-small": {copyOf("app", newClaim("clone-small", class, "64Mi")), `new PVC request must be greater than or equal in size to the specified PVC data source, requested 67108864 but source is 134217728`},
		"another-fs":  {restoreOf("instant", newClaim("another-fs", xfs, smallXFS)), `code = InvalidArgument .*the source has ext4, a copy of it cannot have xfs: use a class that agrees with the source`},
	} {
		s.claim(c.claim)
		event := s.awaitEvent(name, "ProvisioningFailed", `(?s)`+c.says)
		s.step("%s: %s", name, event.Message)
		s.explains("pvc", name, c.says)
	}
	for _, name := range []string{"of-nothing", "of-waiting", "no-class"} {
		s.must(s.snap.SnapshotV1().VolumeSnapshots(s.ns).Delete(s.ctx, name, metav1.DeleteOptions{}))
	}
}

// TestWhatKubectlDescribeShowsOfAUse asks for uses that cannot be: access modes,
// modes of volumes, a quota, growth.
func TestWhatKubectlDescribeShowsOfAUse(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	class := s.immediate(classExt4)
	for name, c := range map[string]struct {
		claim *corev1.PersistentVolumeClaim
		says  string
	}{
		"many-writers":        {newClaim("many-writers", class, small), `code = InvalidArgument .*access mode MULTI_NODE_MULTI_WRITER: a volume can be written to on one node only: use ReadWriteOnce, ReadWriteOncePod or ReadOnlyMany`},
		"many-writers-device": {newBlockClaim("many-writers-device", class, small), `code = InvalidArgument .*access mode MULTI_NODE_MULTI_WRITER: a volume can be written to on one node only`},
	} {
		c.claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		s.claim(c.claim)
		s.awaitEvent(name, "ProvisioningFailed", c.says)
		s.explains("pvc", name, c.says)
	}

	s.claim(newBlockClaim("device", class, small))
	s.awaitClaim("device", "is bound", bound)
	mounting := s.create(idle("mounting", "device"))
	const asFiles = `volume device has volumeMode Block, but is specified in volumeMounts`
	s.step("a pod that mounts a device: %s", s.awaitEvent("mounting", "FailedMount", asFiles).Message)
	s.explains("pod", "mounting", asFiles)
	mounting.delete()

	s.claim(newClaim("app", class, small))
	s.awaitClaim("app", "is bound", bound)
	_, err := s.kube.CoreV1().PersistentVolumeClaims(s.ns).Patch(s.ctx, "app", types.MergePatchType, []byte(`{"spec":{"resources":{"requests":{"storage":"64Mi"}}}}`), metav1.PatchOptions{})
	if err == nil || !regexp.MustCompile(`field can not be less than`).MatchString(err.Error()) {
		t.Errorf("a claim was made smaller: %v", err)
	} else {
		s.step("a smaller claim: %v", err)
	}
	s.edit("app", "100Ti")
	const tooLarge = `code = OutOfRange .*100 TiB is more than the largest volume, 64 TiB`
	s.awaitEvent("app", "VolumeResizeFailed", tooLarge)
	s.explains("pvc", "app", tooLarge)

	_, err = s.kube.CoreV1().ResourceQuotas(s.ns).Create(s.ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "storage"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceRequestsStorage: resource.MustParse("1Gi")}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.until(aWhile, "the quota holds", func() bool {
		_, err = s.kube.CoreV1().PersistentVolumeClaims(s.ns).Create(s.ctx, newClaim("over-quota", class, "2Gi"), metav1.CreateOptions{})
		return err != nil && regexp.MustCompile(`exceeded quota: storage, requested: requests.storage=2Gi`).MatchString(err.Error())
	})
	s.step("a claim above the quota: %v", err)
}
