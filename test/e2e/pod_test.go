package e2e

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	workloadImage   = "holdfast.test/workload:1"
	workloadProgram = "/workload"
	mainContainer   = "main"

	// dataDir and dataDevice are where pods have their volume.
	dataDir    = "/data"
	dataDevice = "/dev/data"

	// appLabel marks pods whose log is shown when a test fails.
	appLabel = "e2e.holdfast.test/app"
)

// idle is a pod that does nothing; a test runs commands in it. It has the claim, if
// one is named, at dataDir.
func idle(name, claim string) *corev1.Pod {
	return working(name, claim, "idle")
}

// journaling is a pod that writes a journal until it is stopped, and ends in
// failure at the first I/O error.
func journaling(name, claim string) *corev1.Pod {
	return working(name, claim, "journal", dataDir)
}

func working(name, claim string, args ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{appLabel: name}}, Spec: podSpec(args...)}
	if claim != "" {
		mountClaim(&p.Spec, claim, dataDir)
	}
	return p
}

// idleOnDevice is like idle, with the claim as a device at dataDevice.
func idleOnDevice(name, claim string) *corev1.Pod {
	p := idle(name, "")
	p.Spec.Volumes = []corev1.Volume{claimVolume(claim)}
	p.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: claim, DevicePath: dataDevice}}
	return p
}

func podSpec(args ...string) corev1.PodSpec {
	grace, no := int64(5), false
	return corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyNever,
		TerminationGracePeriodSeconds: &grace,
		AutomountServiceAccountToken:  &no,
		EnableServiceLinks:            &no,
		Containers: []corev1.Container{{
			Name:            mainContainer,
			Image:           workloadImage,
			ImagePullPolicy: corev1.PullIfNotPresent,
			Command:         append([]string{workloadProgram}, args...),
		}},
	}
}

// mountClaim gives the first container a claim at a directory.
func mountClaim(spec *corev1.PodSpec, claim, dir string) {
	spec.Volumes = append(spec.Volumes, claimVolume(claim))
	spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: claim, MountPath: dir})
}

func claimVolume(claim string) corev1.Volume {
	return corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}}
}

// pod is a pod of the scene that runs, or did.
type pod struct {
	s    *scene
	name string
}

// create makes a pod and does not wait for it.
func (s *scene) create(p *corev1.Pod) *pod {
	s.t.Helper()
	_, err := s.kube.CoreV1().Pods(s.ns).Create(s.ctx, p, metav1.CreateOptions{})
	s.must(err)
	return &pod{s: s, name: p.Name}
}

// run makes a pod and waits until its containers run.
func (s *scene) run(p *corev1.Pod) *pod {
	s.t.Helper()
	made := s.create(p)
	made.await("runs", running)
	return made
}

// runClaim makes a claim and a pod of the same name that has it.
func (s *scene) runClaim(c *corev1.PersistentVolumeClaim) *pod {
	s.t.Helper()
	s.claim(c)
	if c.Spec.VolumeMode != nil && *c.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return s.run(idleOnDevice(c.Name, c.Name))
	}
	return s.run(idle(c.Name, c.Name))
}

func (p *pod) await(state string, ok func(*corev1.Pod) bool) *corev1.Pod {
	p.s.t.Helper()
	return await(p.s, aWhile, one(p.s.kube.CoreV1().Pods(p.s.ns), p.name), state, ok)
}

func running(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// delete deletes the pod and waits until kubelet has let go of it.
func (p *pod) delete() {
	p.s.t.Helper()
	p.s.must(p.s.kube.CoreV1().Pods(p.s.ns).Delete(p.s.ctx, p.name, metav1.DeleteOptions{}))
	p.s.must(gone(p.s.ctx, aWhile, one(p.s.kube.CoreV1().Pods(p.s.ns), p.name), &corev1.Pod{}))
}

// stop ends a pod by itself, as kubelet does at its deletion, and demands that it
// had no error to the last.
func (p *pod) stop() {
	p.s.t.Helper()
	p.exec("/bin/busybox", "kill", "1")
	ended := p.await("has ended", func(o *corev1.Pod) bool {
		return o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed
	})
	if ended.Status.Phase != corev1.PodSucceeded {
		p.s.t.Errorf("pod %s ended in failure:\n%s", p.name, p.log())
	}
}

// log is what the pod wrote.
func (p *pod) log() string {
	p.s.t.Helper()
	text, err := p.s.kube.CoreV1().Pods(p.s.ns).GetLogs(p.name, &corev1.PodLogOptions{}).DoRaw(p.s.ctx)
	p.s.must(err)
	return string(text)
}
