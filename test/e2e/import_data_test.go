package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hostDir is a directory of the node that goes with the test.
func (s *scene) hostDir() string {
	s.t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "holdfast-e2e-")
	s.must(err)
	s.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.t.Error(err)
		}
	})
	s.must(os.Chmod(dir, 0o755))
	return dir
}

// hostPod is an idle pod with a directory of the node at dataDir.
func hostPod(name, dir string) *corev1.Pod {
	p := idle(name, "")
	kind := corev1.HostPathDirectory
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: dataDir}}
	return p
}

// importJob is the Job of deploy/examples with other arguments and another source.
func (s *scene) importJob(name string, source corev1.VolumeSource, args ...string) *batchv1.Job {
	s.t.Helper()
	job := example[batchv1.Job](s, "jobs/import.yaml", 0)
	job.Name = name
	spec := &job.Spec.Template.Spec
	spec.Volumes[0].VolumeSource = source
	spec.Containers[0].Args = append([]string{"pool", "import", "--name=" + s.ns + "-" + name, "--claim=" + s.ns + "/" + name}, args...)
	return job
}

func ofHost(dir string) corev1.VolumeSource {
	kind := corev1.HostPathDirectory
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: &kind}}
}

// TestADirectoryOfTheNodeIsImported goes the way of docs/guides/import.md: a pod
// writes to a hostPath, the Job of deploy/examples makes a volume of it, what it
// prints is applied, and a pod has the data. Then it is a volume like any other.
func TestADirectoryOfTheNodeIsImported(t *testing.T) {
	t.Parallel()
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			dir := s.hostDir()
			old := s.run(hostPod("old", dir))
			old.write("/data/file", 1)
			old.exec("/bin/busybox", "sh", "-c", "mkdir -p /data/sub && echo hello > /data/sub/hello && chown -R 1000:1000 /data/sub && chmod 640 /data/sub/hello && ln -s hello /data/sub/link && mkfifo /data/pipe")
			old.delete()

			printed := s.runJob(s.importJob("imported", ofHost(dir), "--fs-type="+fsType, "--size=384Mi", "/source"))
			if !strings.Contains(printed, "# /source imported as vol.") {
				t.Errorf("it printed\n%s", printed)
			}
			s.applyPrinted(printed)
			app := s.run(idle("app", "imported"))
			app.verify("/data/file", 1)
			if got := app.exec("/bin/busybox", "sh", "-c", "cat /data/sub/link; stat -c '%u:%g %a' /data/sub/hello; stat -c %F /data/pipe"); got != "hello\n1000:1000 640\nfifo\n" {
				t.Errorf("the pod sees %q", got)
			}
			s.hasRoom(app, "384Mi")

			s.step("the same Job again prints the same")
			again := s.runJob(s.renamed(s.importJob("imported", ofHost(dir), "--fs-type="+fsType, "--size=384Mi", "/source"), "again"))
			if objects(again) != objects(printed) || !strings.Contains(again, "was imported before") {
				t.Errorf("the second time it printed\n%s\nthe first time\n%s", again, printed)
			}
			if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
				t.Errorf("the source: %v", err)
			}
			s.livesOn("imported", app)
		})
	}
}

// objects is what was printed without the comments: some go to another stream, and
// come anywhere between.
func objects(printed string) string {
	var b strings.Builder
	for line := range strings.Lines(printed) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (s *scene) renamed(job *batchv1.Job, name string) *batchv1.Job {
	job.Name = name
	return job
}

// livesOn demands that a statically provisioned volume can do what others can: be
// snapshotted, restored, cloned, grown and retained. Its pod has the pattern 1 in a
// file. That it is deleted with its object is seen at the end of the scene.
func (s *scene) livesOn(claim string, app *pod) {
	s.t.Helper()
	path, block := "/data/file", false
	pv := s.volumeOf(claim)
	if pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		path, block = dataDevice, true
	}
	have := pv.Spec.Capacity[corev1.ResourceStorage]
	same := func(name string) *corev1.PersistentVolumeClaim {
		class := pv.Spec.StorageClassName
		if pv.Spec.CSI.FSType == "xfs" {
			class = classXFS
		}
		c := newClaim(name, class, have.String())
		c.Spec.VolumeMode = pv.Spec.VolumeMode
		return c
	}
	s.step("snapshot and restore")
	s.snapshot("instant", claim, classSnapshot)
	app.write(path, 2)
	restored := s.runClaim(restoreOf("instant", same("restored")))
	restored.verify(path, 1)
	s.step("clone")
	clone := s.runClaim(copyOf(claim, same("clone")))
	clone.verify(path, 2)
	s.step("grow")
	s.edit(claim, "640Mi")
	if !block && pv.Spec.CSI.FSType == "ext4" && !maySysResource(s) {
		s.awaitClaim(claim, "has a volume that is larger", func(*corev1.PersistentVolumeClaim) bool {
			now, err := s.kube.CoreV1().PersistentVolumes().Get(s.ctx, pv.Name, metav1.GetOptions{})
			s.must(err)
			size := now.Spec.Capacity[corev1.ResourceStorage]
			return size.String() == "640Mi"
		})
		app.delete() // the next pod has it
		app = s.run(idle("app", claim))
	}
	s.awaitClaim(claim, "has grown", hasSize("640Mi"))
	app.verify(path, 2)
	if !block {
		s.hasRoom(app, "640Mi")
	}
	s.step("the claim goes, the volume stays")
	app.delete()
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
		s.t.Errorf("the reclaim policy is %s", pv.Spec.PersistentVolumeReclaimPolicy)
	}
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).Delete(s.ctx, claim, metav1.DeleteOptions{}))
	await(s, aWhile, one(s.kube.CoreV1().PersistentVolumes(), pv.Name), "is released", func(pv *corev1.PersistentVolume) bool {
		return pv.Status.Phase == corev1.VolumeReleased
	})
}

// TestAClaimOfAnotherDriverIsImported mounts the old claim into the Job: so it is
// with local-path-provisioner, whose volumes are such hostPaths.
func TestAClaimOfAnotherDriverIsImported(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	dir := s.hostDir()
	volumes := s.kube.CoreV1().PersistentVolumes()
	none := ""
	old := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: s.ns + "-old"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: storage(small).Requests,
			ClaimRef:               &corev1.ObjectReference{Namespace: s.ns, Name: "old"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: ofHost(dir).HostPath},
		},
	}
	_, err := volumes.Create(s.ctx, old, metav1.CreateOptions{})
	s.must(err)
	t.Cleanup(func() {
		if err := volumes.Delete(context.Background(), old.Name, metav1.DeleteOptions{}); err != nil {
			t.Log(err)
		}
	})
	claim := newClaim("old", none, small)
	claim.Spec.VolumeName = old.Name
	writer := s.runClaim(claim)
	writer.write("/data/file", 3)

	s.step("with a pod that has a file open for writing it is refused")
	writer.exec("/bin/busybox", "sh", "-c", "exec >/data/open 2>&1 </dev/null; sleep 1000000 &")
	ofClaim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "old"}}
	if said := s.failJob(s.importJob("refused", ofClaim, "/source")); !strings.Contains(said, `"open"`) || !strings.Contains(said, "open for writing") {
		t.Errorf("it said %s", said)
	}
	writer.delete()

	s.applyPrinted(s.runJob(s.importJob("new", ofClaim, "/source")))
	app := s.run(idle("app", "new"))
	app.verify("/data/file", 3)
}

// failJob makes a Job of the scene that must fail, and returns what it wrote.
func (s *scene) failJob(job *batchv1.Job) string {
	s.t.Helper()
	job.Namespace = s.ns
	_, err := s.kube.BatchV1().Jobs(s.ns).Create(s.ctx, job, metav1.CreateOptions{})
	s.must(err)
	await(s, aWhile, one(s.kube.BatchV1().Jobs(s.ns), job.Name), "has failed", func(j *batchv1.Job) bool { return j.Status.Failed > 0 })
	pods, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
	s.must(err)
	if len(pods.Items) != 1 {
		s.t.Fatalf("job %s has %d pods", job.Name, len(pods.Items))
	}
	return (&pod{s: s, name: pods.Items[0].Name}).log()
}

// TestARawImageIsImported does the same with the image of a disk, as a block device.
func TestARawImageIsImported(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	dir := s.hostDir()
	maker := s.run(hostPod("maker", dir))
	maker.write("/data/disk.img", 1)
	maker.exec("/bin/busybox", "truncate", "-s", "128M", "/data/disk.img")
	maker.delete()
	s.applyPrinted(s.runJob(s.importJob("disk", ofHost(dir), "/source/disk.img")))
	app := s.run(idleOnDevice("app", "disk"))
	app.verify(dataDevice, 1)
	s.livesOn("disk", app)
}
