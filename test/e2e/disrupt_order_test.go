package e2e

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// rebootNode reboots the node in a way of package cluster. Whoever comes next has a
// node, whatever happens.
func (s *scene) rebootNode(how func(context.Context) error) {
	s.t.Helper()
	up := false
	s.afterwards(func(late *scene) {
		if !up {
			late.must(late.cluster.Reboot(late.ctx))
		}
	})
	s.must(how(s.ctx))
	up = true
}

// TestTheNodeStartsInAnyOrder restarts containerd below pods that write, and then
// reboots the node with the driver coming last, long after kubelet wants its volumes.
func TestTheNodeStartsInAnyOrder(t *testing.T) {
	s := newScene(t)
	writers := s.writers()
	lasting := s.lasting("lasting", newClaim("lasting", classExt4, small))
	lasting = append(lasting, s.lasting("lasting-block", newBlockClaim("lasting-block", classExt4, small))...)
	for i, p := range lasting {
		p.await("runs", running)
		p.write(p.where, 100+i)
	}
	s.undisturbed(writers, "containerd is restarted", func() {
		s.must(s.cluster.RestartContainerd(s.ctx))
		app := s.runClaim(newClaim("new", classXFS, smallXFS))
		app.write("/data/file", 1)
		app.verify("/data/file", 1)
		app.delete()
	})
	durable := map[string]uint64{}
	for _, w := range writers {
		durable[w.name] = w.progress().Records
	}
	first := map[string]string{}
	for _, p := range lasting {
		first[p.name] = p.instance()
	}

	s.step("reboot, without the driver")
	s.withoutDriver(s.driverTemplate(), func() {
		s.rebootNode(s.cluster.Reboot)
		s.step("kubelet runs again")
		event := s.awaitEvent("lasting", "FailedMount", `driver name csi\.holdfast\.dev not found in the list of registered CSI drivers`)
		s.step("a pod waits: %s", event.Message)
	})
	s.step("the driver runs too")
	for i, p := range lasting {
		p.await("was started again", func(now *corev1.Pod) bool { return running(now) && instanceOf(now) != first[p.name] })
		p.verify(p.where, 100+i)
	}
	for _, w := range writers {
		w.await("is known to have died", func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodFailed })
		w.pod.delete()
		w.found(durable[w.name])
	}
	s.oneLoopEach()
}

// TestADrainedNodeLetsGoOfItsVolumes maintains a node as an administrator does:
// cordon, drain, reboot, uncordon. Kubelet is there before containerd this time.
func TestADrainedNodeLetsGoOfItsVolumes(t *testing.T) {
	s := newScene(t)
	members := s.lastingSet("set", 2)
	for i, p := range members {
		p.await("runs", running)
		p.write(p.where, 100+i)
	}
	handles := map[string]string{}
	for _, p := range members {
		pv := s.volumeOf("data-" + p.name)
		handles[pv.Spec.CSI.VolumeHandle] = pv.Name
	}
	s.afterwards(func(late *scene) { late.kubectl("uncordon", cluster.NodeName) })

	s.step("%s", s.kubectl("cordon", cluster.NodeName))
	old := s.driverPod()
	s.must(s.kube.CoreV1().Pods(driverNamespace).Delete(s.ctx, old.Name, metav1.DeleteOptions{}))
	s.awaitDriverBut(old.UID)
	s.snapshot("cordoned", "data-set-0", classSnapshot)
	for i, p := range members {
		p.verify(p.where, 100+i)
	}
	s.step("%s", s.kubectl("drain", cluster.NodeName, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"))
	for _, p := range members {
		event := s.awaitEvent(p.name, "FailedScheduling", "unschedulable")
		s.step("%s: %s", p.name, event.Message)
	}
	s.until(aWhile, "nothing of the volumes is attached or mounted", func() bool {
		left, err := attachedOf(handles)
		s.must(err)
		return len(left) == 0
	})
	await(s, aWhile, one(s.kube.CoreV1().Pods(driverNamespace), s.driverPod().Name), "runs on a drained node", running)

	s.step("reboot, kubelet first")
	s.rebootNode(s.cluster.RebootKubeletFirst)
	s.step("%s", s.kubectl("uncordon", cluster.NodeName))
	for i, p := range members {
		p.await("runs", running)
		p.verify(p.where, 100+i)
		p.write(p.where, 200+i)
	}
	s.oneLoopEach()
	s.claim(restoreOf("cordoned", newClaim("restored", classExt4, small)))
	s.run(idle("restored", "restored")).verify("/data/file", 100)
}
