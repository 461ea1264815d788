package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestFiftyClaimsAtOnce makes fifty claims and pods together, and deletes them
// together. Their space comes back, and the end of the scene demands that nothing
// is left on the node.
func TestFiftyClaimsAtOnce(t *testing.T) {
	const many = 50
	s := newScene(t)
	before := s.driverPod()
	empty, err := poolUse()
	s.must(err)

	start := time.Now()
	for i := range many {
		name := fmt.Sprintf("app-%d", i)
		s.claim(newClaim(name, classExt4, "32Mi"))
		s.create(idle(name, name))
	}
	asked := time.Now()
	s.runAll(many)
	ran := time.Now()
	claims, err := s.kube.CoreV1().PersistentVolumeClaims(s.ns).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for i := range claims.Items {
		if !bound(&claims.Items[i]) {
			t.Errorf("claim %s is not bound although its pod runs", claims.Items[i].Name)
		}
	}
	s.step("%d claims and pods: asked for in %s, all run after %s (last volume made after %s)",
		many, seconds(asked.Sub(start)), seconds(ran.Sub(start)), seconds(s.lastVolume().Sub(start.Truncate(time.Second))))

	// Each has its own volume: all write before any is read, some by another pod.
	s.everywhere(many, "write")
	full, err := poolUse()
	s.must(err)
	s.anew(many, 5)
	s.everywhere(many, "verify")
	s.step("all have written and read")

	deleted := time.Now()
	now, everything := int64(0), metav1.ListOptions{}
	s.must(s.kube.CoreV1().Pods(s.ns).DeleteCollection(s.ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, everything))
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).DeleteCollection(s.ctx, metav1.DeleteOptions{}, everything))
	s.must(noneOf(s.ctx, all(s.kube.CoreV1().PersistentVolumes(), "volumes of "+s.ns), func(pv *corev1.PersistentVolume) bool {
		return ofNamespace(pv, s.ns)
	}))
	s.step("deleted: all volumes are gone after %s", seconds(time.Since(deleted)))
	s.freed(empty, full)

	after := s.driverPod()
	if before.UID != after.UID {
		t.Errorf("the driver's pod is another one: %s, and was %s", after.Name, before.Name)
	}
	if diff := cmp.Diff(restarts(before), restarts(after)); diff != "" {
		t.Errorf("containers of the driver's pod were restarted (-before +after):\n%s", diff)
	}
}

// anew replaces every nth of the pods app-0, app-1 and so on by one of the same
// name, which has its volume attached and mounted anew.
func (s *scene) anew(many, nth int) {
	s.t.Helper()
	for i := 0; i < many; i += nth {
		s.must(s.kube.CoreV1().Pods(s.ns).Delete(s.ctx, fmt.Sprintf("app-%d", i), metav1.DeleteOptions{}))
	}
	for i := 0; i < many; i += nth {
		name := fmt.Sprintf("app-%d", i)
		s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().Pods(s.ns), name), &corev1.Pod{}))
		s.create(idle(name, name))
	}
	s.runAll(many)
}

// freed waits until the pool uses about as much as before the test. It used full in
// between.
func (s *scene) freed(empty, full volume.Bytes) {
	s.t.Helper()
	const about = 32 * volume.MiB // the filesystem's own trees
	if full < empty+2*about {
		s.t.Fatalf("the pool uses %s with all that was written, and used %s before: that shows nothing", full, empty)
	}
	var now volume.Bytes
	s.until(aWhile, "the pool has its space back", func() bool {
		var err error
		now, err = poolUse()
		s.must(err)
		return now < empty+about
	})
	s.step("the pool used %s before, %s in between, and %s now", empty, full, now)
}

// lastVolume is when the newest volume of the scene was made, to the second.
func (s *scene) lastVolume() time.Time {
	s.t.Helper()
	volumes, err := s.kube.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	var last time.Time
	for i := range volumes.Items {
		if pv := &volumes.Items[i]; ofNamespace(pv, s.ns) && pv.CreationTimestamp.After(last) {
			last = pv.CreationTimestamp.Time
		}
	}
	return last
}

// everywhere runs the workload's write or verify in pods app-0, app-1 and so on,
// each with a pattern of its own, some at a time.
func (s *scene) everywhere(n int, verb string) {
	s.t.Helper()
	errs := make([]error, n)
	var group sync.WaitGroup
	turn := make(chan struct{}, 4)
	for i := range n {
		group.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			_, errs[i] = s.execute(fmt.Sprintf("app-%d", i), mainContainer,
				workloadProgram, verb, "/data/file", size(dataSize), strconv.Itoa(i))
		})
	}
	group.Wait()
	s.must(errors.Join(errs...))
}
