package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	// manyVolumes is how many volumes a node has at once, in pods of some each.
	manyVolumes  = 200
	volumesOfPod = 10
	// manyPatience bounds each step with all of them. The sidecars may ask the API
	// server 20 times a second, and make and delete a volume with some questions.
	manyPatience = 5 * time.Minute
)

// TestTwoHundredVolumesOnANode has two hundred volumes mounted at once, replaces the
// driver below them, and deletes them all.
func TestTwoHundredVolumesOnANode(t *testing.T) {
	s := newScene(t)
	node, err := s.kube.CoreV1().Nodes().Get(s.ctx, cluster.NodeName, metav1.GetOptions{})
	s.must(err)
	s.step("kubelet allows %s pods on this node", node.Status.Allocatable.Pods())
	s.claim(newClaim("app", classXFS, smallXFS))
	journal := &writer{pod: s.run(journaling("app", "app")), claim: "app", where: dataDir}
	journal.goesOn(5)
	journal.held = journal.holding()

	start := time.Now()
	pods := s.manyPods()
	for _, p := range pods {
		await(s, manyPatience, one(s.kube.CoreV1().Pods(s.ns), p.name), "runs with its volumes", running)
	}
	s.step("%d volumes in %d pods run %s after they were asked for", manyVolumes, len(pods), seconds(time.Since(start)))
	handles := s.handles()
	if n := loopsOf(handles); n != len(handles) {
		t.Errorf("%d loop devices have the images of %d volumes", n, len(handles))
	}
	s.inEach(pods, writeEach)

	s.undisturbed([]*writer{journal}, "the driver is replaced", func() {
		old := s.driverPod()
		gone := time.Now()
		s.must(s.kube.CoreV1().Pods(driverNamespace).Delete(s.ctx, old.Name, metav1.DeleteOptions{}))
		s.awaitDriverBut(old.UID)
		s.step("the new driver is ready %s after the old one was deleted", seconds(time.Since(gone)))
	})
	s.inEach(pods, readEach)
	if n := loopsOf(handles); n != len(handles) {
		t.Errorf("%d loop devices have the images of %d volumes", n, len(handles))
	}
	late := s.runClaim(newClaim("late", classExt4, small))
	late.write("/data/file", 1)
	late.verify("/data/file", 1)
	journal.finish()

	deleted := time.Now()
	now, everything := int64(0), metav1.ListOptions{}
	s.must(s.kube.CoreV1().Pods(s.ns).DeleteCollection(s.ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, everything))
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).DeleteCollection(s.ctx, metav1.DeleteOptions{}, everything))
	s.until(manyPatience, "all volumes are gone", func() bool {
		volumes, err := s.kube.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
		s.must(err)
		left := 0
		for i := range volumes.Items {
			if ofNamespace(&volumes.Items[i], s.ns) {
				left++
			}
		}
		if left > 0 {
			time.Sleep(500 * time.Millisecond)
		}
		return left == 0
	})
	s.step("all are deleted after %s", seconds(time.Since(deleted)))
}

// manyPods makes the claims, one in ten of them for a block device, and the pods.
func (s *scene) manyPods() []*pod {
	s.t.Helper()
	var pods []*pod
	for i := range manyVolumes / volumesOfPod {
		p := idle(fmt.Sprintf("many-%d", i), "")
		for j := range volumesOfPod - 1 {
			name := fmt.Sprintf("many-%d-%d", i, j)
			s.claim(newClaim(name, classExt4, "16Mi"))
			mountClaim(&p.Spec, name, fmt.Sprintf("/many/%d", j))
		}
		name := fmt.Sprintf("many-%d-device", i)
		s.claim(newBlockClaim(name, classExt4, "16Mi"))
		p.Spec.Volumes = append(p.Spec.Volumes, claimVolume(name))
		p.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: name, DevicePath: dataDevice}}
		pods = append(pods, s.create(p))
	}
	return pods
}

const (
	// writeEach and readEach give each volume of a pod data of its own. The first
	// argument is the number of the pod.
	writeEach = `for d in /many/*; do /workload write $d/file 64Ki $1${d#/many/}; done; /workload write ` + dataDevice + ` 64Ki ${1}99`
	readEach  = `for d in /many/*; do /workload verify $d/file 64Ki $1${d#/many/}; done; /workload verify ` + dataDevice + ` 64Ki ${1}99`
)

// inEach runs a script in every pod, some at a time.
func (s *scene) inEach(pods []*pod, script string) {
	s.t.Helper()
	errs := make([]error, len(pods))
	var group sync.WaitGroup
	turn := make(chan struct{}, 4)
	for i, p := range pods {
		group.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			_, errs[i] = s.execute(p.name, mainContainer, "/bin/busybox", "sh", "-ec", script, "sh", fmt.Sprint(100+i))
		})
	}
	group.Wait()
	s.must(errors.Join(errs...))
}

// handles are the names of the scene's volumes by handle.
func (s *scene) handles() map[string]string {
	s.t.Helper()
	volumes, err := s.kube.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	found := map[string]string{}
	for i := range volumes.Items {
		if pv := &volumes.Items[i]; ofNamespace(pv, s.ns) {
			found[pv.Spec.CSI.VolumeHandle] = pv.Name
		}
	}
	return found
}

// loopsOf is how many loop devices have the image of one of these volumes.
func loopsOf(handles map[string]string) int {
	loops, err := loop.List()
	if err != nil {
		return -1
	}
	n := 0
	for _, l := range loops {
		for handle := range handles {
			if strings.Contains(l.BackingPath, "/"+handle+"/") {
				n++
			}
		}
	}
	return n
}
