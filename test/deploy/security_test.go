package deploy

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// pods are the pods of all workloads, by name.
func pods(objects []runtime.Object) map[string]corev1.PodSpec {
	found := map[string]corev1.PodSpec{}
	for _, s := range of[*appsv1.DaemonSet](objects) {
		found[s.Name] = s.Spec.Template.Spec
	}
	for _, d := range of[*appsv1.Deployment](objects) {
		found[d.Name] = d.Spec.Template.Spec
	}
	return found
}

// eachContainer runs a check on every container of every installation.
func eachContainer(t *testing.T, check func(*testing.T, corev1.PodSpec, corev1.Container)) {
	for installation, objects := range installations(t) {
		for name, pod := range pods(objects) {
			for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
				t.Run(installation+"/"+name+"/"+c.Name, func(t *testing.T) { check(t, pod, c) })
			}
		}
	}
}

// Only these two mount filesystems.
var privileged = []string{"driver", "freeze-watchdog"}

func TestOnlyDriverAndWatchdogArePrivileged(t *testing.T) {
	eachContainer(t, func(t *testing.T, pod corev1.PodSpec, c corev1.Container) {
		s := c.SecurityContext
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Error("its root filesystem can be written")
		}
		if s == nil {
			return
		}
		may := slices.Contains(privileged, c.Name)
		if is := s.Privileged != nil && *s.Privileged; is != may {
			t.Errorf("privileged is %v, want %v", is, may)
		}
		if may {
			return
		}
		if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
			t.Error("it may gain privileges")
		}
		if s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0 {
			t.Errorf("its capabilities are %v, want none", s.Capabilities)
		}
		if p := pod.SecurityContext; p == nil || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Error("its system calls are not limited by RuntimeDefault")
		}
	})
}

func TestPodsKeepToTheirNamespaces(t *testing.T) {
	for name, pod := range pods(render(t, singleNode)) {
		if pod.HostNetwork || pod.HostPID || pod.HostIPC {
			t.Errorf("%s is in the host's namespaces: network %v, processes %v, IPC %v", name, pod.HostNetwork, pod.HostPID, pod.HostIPC)
		}
	}
}

// The socket is root's. Who does not need it needs no root either.
func TestRootOnlyWhereTheSocketIs(t *testing.T) {
	eachContainer(t, func(t *testing.T, pod corev1.PodSpec, c corev1.Container) {
		socket := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "socket" })
		user := c.SecurityContext.RunAsUser
		if user == nil && pod.SecurityContext != nil {
			user = pod.SecurityContext.RunAsUser
		}
		root := user == nil || *user == 0
		if want := socket || slices.Contains(privileged, c.Name); root != want {
			t.Errorf("it runs as root: %v, want %v", root, want)
		}
	})
}

// A token is worth what its ServiceAccount may do, so it is only where it is used.
func TestTokensOnlyForThoseWhoSpeakToTheAPIServer(t *testing.T) {
	pod := of[*appsv1.DaemonSet](render(t, singleNode))[0].Spec.Template.Spec
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("every container gets a token")
	}
	without := []string{"freeze-watchdog", "node-driver-registrar"}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		has := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
			return m.MountPath == "/var/run/secrets/kubernetes.io/serviceaccount"
		})
		if want := !slices.Contains(without, c.Name); has != want {
			t.Errorf("%s has a token: %v, want %v", c.Name, has, want)
		}
	}
}

// What a container says last is on the pod's status, and with the host's /dev in
// it, the file for that must not be made there.
func TestTerminationMessages(t *testing.T) {
	eachContainer(t, func(t *testing.T, _ corev1.PodSpec, c corev1.Container) {
		if c.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
			t.Errorf("its termination message policy is %q", c.TerminationMessagePolicy)
		}
		dev := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/dev" })
		if dev && (c.TerminationMessagePath == "" || strings.HasPrefix(c.TerminationMessagePath, "/dev/")) {
			t.Errorf("its termination message is in the host's /dev: %q", c.TerminationMessagePath)
		}
	})
}

var pinned = regexp.MustCompile(`^[a-z0-9./-]+:v\d+\.\d+\.\d+$`)

func TestImagesArePinned(t *testing.T) {
	eachContainer(t, func(t *testing.T, _ corev1.PodSpec, c corev1.Container) {
		if !pinned.MatchString(c.Image) || c.ImagePullPolicy != corev1.PullIfNotPresent {
			t.Errorf("image %s with policy %s: want a version, and IfNotPresent", c.Image, c.ImagePullPolicy)
		}
	})
}

// An OOM kill in the middle of e2fsck, or of the watchdog, is worse than memory
// pressure; and a CPU limit makes the driver slow when it is needed most.
func TestResources(t *testing.T) {
	eachContainer(t, func(t *testing.T, _ corev1.PodSpec, c corev1.Container) {
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
			t.Errorf("it requests %v, want CPU and memory", c.Resources.Requests)
		}
		if !c.Resources.Limits.Cpu().IsZero() {
			t.Errorf("it has a CPU limit of %s", c.Resources.Limits.Cpu())
		}
		if slices.Contains(privileged, c.Name) && !c.Resources.Limits.Memory().IsZero() {
			t.Errorf("it has a memory limit of %s", c.Resources.Limits.Memory())
		}
	})
}
