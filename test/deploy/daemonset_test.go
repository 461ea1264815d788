package deploy

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// eachPlugin runs a check on the driver's DaemonSet of every installation.
func eachPlugin(t *testing.T, check func(*testing.T, *appsv1.DaemonSet)) {
	for name, objects := range installations(t) {
		t.Run(name, func(t *testing.T) {
			sets := of[*appsv1.DaemonSet](objects)
			i := slices.IndexFunc(sets, func(s *appsv1.DaemonSet) bool { return s.Name == "holdfast" })
			if i < 0 {
				t.Fatalf("it is not among the %d DaemonSets", len(sets))
			}
			check(t, sets[i])
		})
	}
}

// hostPath is the directory of the host that a volume is.
func hostPath(t *testing.T, pod corev1.PodSpec, volume string) string {
	t.Helper()
	for _, v := range pod.Volumes {
		if v.Name == volume && v.HostPath != nil {
			return v.HostPath.Path
		}
	}
	t.Fatalf("there is no hostPath volume %s", volume)
	return ""
}

// containerNamed finds a container; init containers are searched too.
func containerNamed(t *testing.T, pod corev1.PodSpec, name string) corev1.Container {
	t.Helper()
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no container %s", name)
	return corev1.Container{}
}

// argument is the value of a flag of a container; the last one holds.
func argument(c corev1.Container, flag string) (value string, ok bool) {
	for _, a := range c.Args {
		if v, found := strings.CutPrefix(a, flag+"="); found {
			value, ok = v, true
		}
	}
	return value, ok
}

// hostPathOf translates a path inside a container to the host's.
func hostPathOf(t *testing.T, pod corev1.PodSpec, c corev1.Container, path string) string {
	t.Helper()
	best := corev1.VolumeMount{}
	for _, m := range c.VolumeMounts {
		if (path == m.MountPath || strings.HasPrefix(path, m.MountPath+"/")) && len(m.MountPath) > len(best.MountPath) {
			best = m
		}
	}
	if best.Name == "" {
		t.Fatalf("%s of container %s is on no volume", path, c.Name)
	}
	return hostPath(t, pod, best.Name) + strings.TrimPrefix(path, best.MountPath)
}

// Mounts must reach the host and come back from it, at the paths that kubelet
// speaks of; one such directory inside the other would multiply them (design,
// section 8).
func TestTwoSiblingDirectoriesAreBidirectional(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		pod := set.Spec.Template.Spec
		var paths []string
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			for _, m := range c.VolumeMounts {
				if m.MountPropagation == nil {
					continue
				}
				if *m.MountPropagation != corev1.MountPropagationBidirectional || c.Name != "driver" {
					t.Errorf("container %s mounts %s with %s", c.Name, m.MountPath, *m.MountPropagation)
				}
				if host := hostPath(t, pod, m.Name); host != m.MountPath {
					t.Errorf("%s of the host is at %s: a path must mean the same on both sides", host, m.MountPath)
				}
				paths = append(paths, m.MountPath)
			}
		}
		if len(paths) != 2 {
			t.Fatalf("these are Bidirectional: %v, want two directories", paths)
		}
		for i, p := range paths {
			if other := paths[1-i]; strings.HasPrefix(other+"/", p+"/") {
				t.Errorf("%s is inside %s", other, p)
			}
		}
		driver := containerNamed(t, pod, "driver")
		kubelet, _ := argument(driver, "--kubelet-dir")
		pool, _ := argument(driver, "--pool")
		_, dir, named := strings.Cut(pool, "=")
		if !named || !slices.Contains(paths, kubelet) || !slices.Contains(paths, filepath.Dir(dir)) {
			t.Errorf("--kubelet-dir=%s and --pool=%s are not in the directories that are Bidirectional, %v", kubelet, pool, paths)
		}
		state, _ := argument(driver, "--state-dir")
		if strings.HasPrefix(state+"/", paths[0]+"/") || strings.HasPrefix(state+"/", paths[1]+"/") {
			t.Errorf("--state-dir=%s is inside %v", state, paths)
		}
	})
}

func TestEverybodyMeansTheSameSocket(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		pod := set.Spec.Template.Spec
		driver := containerNamed(t, pod, "driver")
		endpoint, _ := argument(driver, "--endpoint")
		socket := hostPathOf(t, pod, driver, strings.TrimPrefix(endpoint, "unix://"))
		kubelet, _ := argument(driver, "--kubelet-dir")
		if want := kubelet + "/plugins/csi.holdfast.dev/csi.sock"; socket != want {
			t.Errorf("the socket is %s of the host, want %s", socket, want)
		}
		for _, name := range []string{"csi-provisioner", "csi-snapshotter", "csi-resizer", "node-driver-registrar"} {
			c := containerNamed(t, pod, name)
			address, _ := argument(c, "--csi-address")
			if got := hostPathOf(t, pod, c, address); got != socket {
				t.Errorf("%s connects to %s of the host, the driver listens on %s", name, got, socket)
			}
		}
		registrar := containerNamed(t, pod, "node-driver-registrar")
		if path, _ := argument(registrar, "--kubelet-registration-path"); path != socket {
			t.Errorf("kubelet is told %s, the driver listens on %s", path, socket)
		}
		if got, want := hostPathOf(t, pod, registrar, "/registration"), kubelet+"/plugins_registry"; got != want {
			t.Errorf("the registrar's directory is %s of the host, kubelet watches %s", got, want)
		}
	})
}

func TestTheWatchdogSharesTheStateOfTheDriver(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		pod := set.Spec.Template.Spec
		var dirs, timeouts []string
		for _, name := range []string{"driver", "freeze-watchdog"} {
			c := containerNamed(t, pod, name)
			dir, ok := argument(c, "--state-dir")
			timeout, limited := argument(c, "--freeze-timeout")
			if !ok || !limited {
				t.Fatalf("%s has no --state-dir or no --freeze-timeout", name)
			}
			dirs, timeouts = append(dirs, hostPathOf(t, pod, c, dir)), append(timeouts, timeout)
		}
		if timeouts[0] != timeouts[1] {
			t.Errorf("the driver may freeze for %s, the watchdog thaws after %s", timeouts[0], timeouts[1])
		}
		if dirs[0] != dirs[1] {
			t.Errorf("the driver keeps its state in %s of the host, the watchdog looks in %s", dirs[0], dirs[1])
		}
	})
}

func TestProbesAskTheDriverItself(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		driver := containerNamed(t, set.Spec.Template.Spec, "driver")
		endpoint, _ := argument(driver, "--http-endpoint")
		probes := map[string]*corev1.Probe{"/healthz": driver.LivenessProbe, "/readyz": driver.ReadinessProbe}
		for path, p := range probes {
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path {
				t.Errorf("no probe asks for %s as it should: %v", path, p)
				continue
			}
			port := slices.IndexFunc(driver.Ports, func(c corev1.ContainerPort) bool { return c.Name == p.HTTPGet.Port.StrVal })
			if port < 0 || endpoint != fmt.Sprintf(":%d", driver.Ports[port].ContainerPort) {
				t.Errorf("the probe of %s asks port %s, the driver serves %s", path, p.HTTPGet.Port.StrVal, endpoint)
			}
		}
		// A start-up that takes long, or a lost disk, is no reason to restart.
		if s := driver.StartupProbe; s == nil || s.HTTPGet == nil || s.HTTPGet.Path != "/healthz" {
			t.Errorf("the startup probe is %v, want /healthz", s)
		}
	})
}

func TestNeverTwoDriversOnANode(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		update := set.Spec.UpdateStrategy
		if update.Type != appsv1.RollingUpdateDaemonSetStrategyType || update.RollingUpdate.MaxSurge.IntValue() != 0 || update.RollingUpdate.MaxUnavailable.String() != "100%" {
			t.Errorf("the update strategy is %v; with pods that are refused on other nodes, less than 100%% unavailable is an upgrade that never comes", update)
		}
		pod := set.Spec.Template.Spec
		if len(pod.InitContainers) == 0 || pod.InitContainers[0].Name != "claim-node" || pod.InitContainers[0].RestartPolicy != nil {
			t.Errorf("the node is not claimed before anything else starts: %v", pod.InitContainers)
		}
	})
}

// A sidecar container starts before the others and is stopped after them
// (Kubernetes, Sidecar Containers).
func TestTheWatchdogOutlivesTheDriver(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		pod := set.Spec.Template.Spec
		watchdog := slices.IndexFunc(pod.InitContainers, func(c corev1.Container) bool { return c.Name == "freeze-watchdog" })
		if watchdog < 0 {
			t.Fatal("it is no init container")
		}
		if policy := pod.InitContainers[watchdog].RestartPolicy; policy == nil || *policy != corev1.ContainerRestartPolicyAlways {
			t.Errorf("its restart policy is %v, so the driver would wait for its end", policy)
		}
	})
}

// A check or a resize of a filesystem is given ten minutes (cmd/driver,
// programGrace), and the drain of calls comes before that.
func TestAStopMayTakeAsLongAsAnUnbrokenProgram(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		if grace := set.Spec.Template.Spec.TerminationGracePeriodSeconds; grace == nil || *grace < 660 {
			t.Errorf("terminationGracePeriodSeconds is %v, want 660 at least", grace)
		}
	})
}

func TestVolumesOutliveANodeUnderPressure(t *testing.T) {
	eachPlugin(t, func(t *testing.T, set *appsv1.DaemonSet) {
		pod := set.Spec.Template.Spec
		if pod.PriorityClassName != "system-node-critical" {
			t.Errorf("priorityClassName is %q", pod.PriorityClassName)
		}
		if !slices.ContainsFunc(pod.Tolerations, func(o corev1.Toleration) bool {
			return o.Operator == corev1.TolerationOpExists && o.Key == "" && o.Effect == ""
		}) {
			t.Errorf("the tolerations are %v, want one of everything", pod.Tolerations)
		}
	})
}
