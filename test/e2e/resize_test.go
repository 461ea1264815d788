package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestXFSGrowsWhileAPodWrites(t *testing.T) {
	t.Parallel()
	growsWhileAPodWrites(newScene(t), classXFS, smallXFS, []string{"512Mi", "768Mi"}, []string{"896Mi", "1152Mi"})
}

func TestExt4GrowsWhileAPodWrites(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if !maySysResource(s) {
		t.Skip("growing a mounted ext4 needs CAP_SYS_RESOURCE, which not even root has here")
	}
	growsWhileAPodWrites(s, classExt4, small, []string{"192Mi", "288Mi"}, []string{"384Mi", "512Mi"})
}

// growsWhileAPodWrites goes through the sizes, then through the hasty ones without
// waiting for each, and demands that the pod saw no
// error and all of its records are there.
func growsWhileAPodWrites(s *scene, class, first string, sizes, hasty []string) {
	s.t.Helper()
	s.claim(newClaim("app", class, first))
	app := s.run(journaling("app", "app"))
	app.write("/data/file", 1)
	for _, size := range sizes {
		s.edit("app", size)
		app.growsTo(size)
		s.hasRoom(app, size)
		app.goesOn(20)
	}
	s.step("edit it twice without waiting")
	for _, size := range hasty {
		s.edit("app", size)
	}
	last := hasty[len(hasty)-1]
	app.growsTo(last)
	s.hasRoom(app, last)
	app.goesOn(20)
	app.verify("/data/file", 1)
	written := app.progress()
	s.step("longest gap between two records: %s", written.Longest)
	app.stop()
	app.delete()
	if n := s.run(idle("reader", "app")).journals(dataDir)["journal-1"]; n < written.Records {
		s.t.Errorf("%d records were written, %d are there", written.Records, n)
	}
}

func TestABlockVolumeGrowsWhileItIsUsed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newBlockClaim("app", classExt4, small))
	app.write(dataDevice, 1)
	s.edit("app", "256Mi")
	app.growsTo("256Mi")
	if have := app.space(dataDevice); have != 256*volume.MiB {
		t.Errorf("the pod sees a device of %s after it grew to 256Mi", have)
	}
	app.verify(dataDevice, 1)
}

func TestExt4GrowsBetweenTwoPods(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newClaim("app", classExt4, small))
	app.write("/data/file", 1)
	for i, size := range []string{"256Mi", "384Mi"} {
		app.delete()
		s.edit("app", size)
		app = s.run(idle(fmt.Sprintf("again-%d", i), "app"))
		s.awaitClaim("app", "has "+size, hasSize(size))
		s.hasRoom(app, size)
		app.verify("/data/file", 1)
	}
}

func TestAMountedExt4WithoutTheCapabilityGrowsAtTheNextStart(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if maySysResource(s) {
		t.Skip("a mounted ext4 grows at once here: CAP_SYS_RESOURCE is there")
	}
	app := s.runClaim(newClaim("app", classExt4, small))
	app.write("/data/file", 1)
	s.edit("app", "256Mi")
	s.awaitClaim("app", "waits for kubelet", growsOnNode)
	app.nudge()
	s.awaitClaim("app", "says what is missing", func(c *corev1.PersistentVolumeClaim) bool {
		return slices.ContainsFunc(c.Status.Conditions, func(have corev1.PersistentVolumeClaimCondition) bool {
			return have.Type == corev1.PersistentVolumeClaimNodeResizeError && strings.Contains(have.Message, "CAP_SYS_RESOURCE")
		})
	})
	app.verify("/data/file", 1)
	app.delete()
	again := s.run(idle("again", "app"))
	s.awaitClaim("app", "has 256Mi", hasSize("256Mi"))
	s.hasRoom(again, "256Mi")
	again.verify("/data/file", 1)
}

func TestAGrowthThatCannotFitIsReportedAndTakenBack(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.claim(newClaim("app", classXFS, smallXFS))
	app := s.run(journaling("app", "app"))
	s.edit("app", "1Ti")
	s.awaitEvent("app", "VolumeResizeFailed", "OutOfRange.*1 TiB")
	s.awaitClaim("app", "says that it cannot grow", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Status.AllocatedResourceStatuses[corev1.ResourceStorage] == corev1.PersistentVolumeClaimControllerResizeInfeasible &&
			hasCondition(c, corev1.PersistentVolumeClaimControllerResizeError)
	})
	s.step("lower the size again")
	s.edit("app", "512Mi")
	app.growsTo("512Mi")
	s.awaitClaim("app", "has 512Mi and nothing to complain of", func(c *corev1.PersistentVolumeClaim) bool {
		return hasSize("512Mi")(c) && c.Status.AllocatedResourceStatuses[corev1.ResourceStorage] == "" &&
			!hasCondition(c, corev1.PersistentVolumeClaimControllerResizeError)
	})
	s.hasRoom(app, "512Mi")
	app.goesOn(20)
	app.stop()
}

// growsTo waits until the claim of the same name as the pod has this size. kubelet
// looks at the claims of a running pod once in 60 to 90 seconds, and at once when
// the pod changes; so the test changes the pod.
func (p *pod) growsTo(size string) {
	p.s.t.Helper()
	p.claimGrowsTo(p.name, size)
}

// claimGrowsTo is growsTo for a claim with a name of its own.
func (p *pod) claimGrowsTo(claim, size string) {
	p.s.t.Helper()
	for {
		done := hasSize(size)
		c := p.s.awaitClaim(claim, "has "+size, func(c *corev1.PersistentVolumeClaim) bool { return done(c) || growsOnNode(c) })
		if done(c) {
			return
		}
		p.nudge()
		p.s.awaitClaim(claim, "has "+size, func(c *corev1.PersistentVolumeClaim) bool { return done(c) || !growsOnNode(c) })
	}
}

// growsOnNode reports whether a claim waits for kubelet.
func growsOnNode(c *corev1.PersistentVolumeClaim) bool {
	state := c.Status.AllocatedResourceStatuses[corev1.ResourceStorage]
	return state == corev1.PersistentVolumeClaimNodeResizePending || state == corev1.PersistentVolumeClaimNodeResizeInProgress
}

// nudge makes kubelet look at a pod.
func (p *pod) nudge() {
	p.s.t.Helper()
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"e2e.holdfast.test/nudged":%q}}}`, time.Now().Format(time.RFC3339Nano))
	_, err := p.s.kube.CoreV1().Pods(p.s.ns).Patch(p.s.ctx, p.name, types.MergePatchType, patch, metav1.PatchOptions{})
	p.s.must(err)
}

func hasCondition(c *corev1.PersistentVolumeClaim, kind corev1.PersistentVolumeClaimConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(have corev1.PersistentVolumeClaimCondition) bool {
		return have.Type == kind && have.Status == corev1.ConditionTrue
	})
}

var boundingSet = regexp.MustCompile(`(?m)^CapBnd:\s+([0-9a-f]+)$`)

// maySysResource reports whether a privileged container can have
// CAP_SYS_RESOURCE: no process of a node has more than its first one may.
func maySysResource(s *scene) bool {
	s.t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	s.must(err)
	m := boundingSet.FindSubmatch(text)
	if m == nil {
		s.t.Fatalf("there is no CapBnd in:\n%s", text)
	}
	set, err := strconv.ParseUint(string(m[1]), 16, 64)
	s.must(err)
	return set&(1<<unix.CAP_SYS_RESOURCE) != 0
}
