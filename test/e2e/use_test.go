package e2e

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/exec"
)

func TestAnEphemeralVolumeLivesAndDiesWithItsPod(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := idle("app", "")
	p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{
		Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: newClaim("", classExt4, small).Spec},
		},
	}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: dataDir}}
	app := s.run(p)
	app.write("/data/file", 1)
	app.verify("/data/file", 1)
	pv := s.volumeOf("app-scratch")
	app.delete()
	s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().PersistentVolumeClaims(s.ns), "app-scratch"), &corev1.PersistentVolumeClaim{}))
	s.must(gone(s.ctx, aWhile, one(s.kube.CoreV1().PersistentVolumes(), pv.Name), &corev1.PersistentVolume{}))
}

func TestAPodThatIsNotRootWritesByItsGroup(t *testing.T) {
	t.Parallel()
	for _, class := range []string{classExt4, classXFS} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.claim(newClaim("app", class, smallOf(class)))
			user, group, fsGroup, yes := int64(1000), int64(3000), int64(2000), true
			p := idle("app", "app")
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, RunAsNonRoot: &yes, FSGroup: &fsGroup}
			app := s.run(p)
			app.write("/data/file", 1)
			app.verify("/data/file", 1)
			for path, want := range map[string]string{"/data": "0 2000", "/data/file": "1000 2000"} {
				if have := strings.TrimSpace(app.exec("/bin/busybox", "stat", "-c", "%u %g", path)); have != want {
					t.Errorf("%s has owner and group %s, want %s", path, have, want)
				}
			}
		})
	}
}

func TestPodsOfOneNodeShareAVolumeBySubPath(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.claim(newClaim("shared", classExt4, small))
	for i, part := range []string{"a", "b"} {
		p := idle("app-"+part, "shared")
		p.Spec.Containers[0].VolumeMounts[0].SubPath = "parts/" + part
		s.run(p).write("/data/file", i)
	}
	whole := s.run(idle("whole", "shared"))
	for i, part := range []string{"a", "b"} {
		whole.verify("/data/parts/"+part+"/file", i)
	}
	_, err := s.execute("app-a", mainContainer, "/bin/busybox", "test", "-e", "/data/parts")
	// Status 1 says that it is not there; anything else says nothing.
	if end, ok := errors.AsType[exec.CodeExitError](err); !ok || end.Code != 1 {
		t.Errorf("a pod with a subPath looks for the rest of the volume and ends with %v, want status 1", err)
	}
}

func TestOnlyOnePodHasAReadWriteOncePodVolume(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	claim := newClaim("app", classExt4, small)
	claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	first := s.runClaim(claim)
	first.write("/data/file", 1)
	second := s.create(idle("second", "app"))
	s.awaitEvent("second", "FailedScheduling", "ReadWriteOncePod")
	now, err := s.kube.CoreV1().Pods(s.ns).Get(s.ctx, "second", metav1.GetOptions{})
	s.must(err)
	if now.Spec.NodeName != "" || now.Status.Phase != corev1.PodPending {
		t.Errorf("a second pod got the volume:\n%s", asYAML(now))
	}
	first.delete()
	second.await("runs", running)
	second.verify("/data/file", 1)
}
