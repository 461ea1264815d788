package e2e

import (
	"fmt"
	"slices"
	"testing"

	snapv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestScheduledSnapshotsAreTakenAndPruned runs the CronJob of deploy/examples, by hand
// and several times, with its own rights and its own script; only the image is
// another: busybox, with the kubectl of the cluster.
func TestScheduledSnapshotsAreTakenAndPruned(t *testing.T) {
	t.Parallel()
	const file, keep = "jobs/scheduled-snapshots.yaml", 2
	s := newScene(t)
	app := s.runClaim(newClaim("notes", classExt4, small))
	account := example[corev1.ServiceAccount](s, file, 0)
	role := example[rbacv1.Role](s, file, 1)
	binding := example[rbacv1.RoleBinding](s, file, 2)
	cron := example[batchv1.CronJob](s, file, 3)
	account.Namespace, role.Namespace, binding.Namespace, cron.Namespace = s.ns, s.ns, s.ns, s.ns
	binding.Subjects[0].Namespace = s.ns
	_, err := s.kube.CoreV1().ServiceAccounts(s.ns).Create(s.ctx, account, metav1.CreateOptions{})
	s.must(err)
	_, err = s.kube.RbacV1().Roles(s.ns).Create(s.ctx, role, metav1.CreateOptions{})
	s.must(err)
	_, err = s.kube.RbacV1().RoleBindings(s.ns).Create(s.ctx, binding, metav1.CreateOptions{})
	s.must(err)
	cron, err = s.kube.BatchV1().CronJobs(s.ns).Create(s.ctx, cron, metav1.CreateOptions{})
	s.must(err)

	// One taken by hand is left alone.
	s.snapshot("by-hand", "notes", classSnapshot)
	_, kubectl := s.cluster.Kubeconfig()
	for i := range keep + 2 {
		app.write("/data/file", i)
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("run-%d", i)}, Spec: *cron.Spec.JobTemplate.Spec.DeepCopy()}
		s.withKubectl(&job.Spec.Template.Spec, kubectl, keep)
		s.step("run %d: %s", i, s.runJob(job))
	}
	var mine []string
	snapshots := s.snap.SnapshotV1().VolumeSnapshots(s.ns)
	await(s, aWhile, all(snapshots, "snapshots of "+s.ns), "has no more than are kept", func(*snapv1.VolumeSnapshot) bool {
		list, err := snapshots.List(s.ctx, metav1.ListOptions{LabelSelector: "scheduled-snapshots-of=notes"})
		s.must(err)
		slices.SortFunc(list.Items, func(a, b snapv1.VolumeSnapshot) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		mine = nil
		for _, v := range list.Items {
			mine = append(mine, v.Name)
		}
		return len(mine) == keep
	})
	// Those that are kept are the newest, and have what was there then.
	for i, name := range mine {
		claim := restoreOf(name, newClaim(fmt.Sprintf("restored-%d", i), classExt4, small))
		s.runClaim(claim).verify("/data/file", i+2)
	}
	if _, err := snapshots.Get(s.ctx, "by-hand", metav1.GetOptions{}); err != nil {
		t.Errorf("the snapshot that was taken by hand: %v", err)
	}
}

// withKubectl gives a pod an image that is here, and the node's kubectl.
func (s *scene) withKubectl(spec *corev1.PodSpec, kubectl string, keep int) {
	kind := corev1.HostPathFile
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "kubectl", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: kubectl, Type: &kind}}})
	c := &spec.Containers[0]
	c.Image = "holdfast.test/busybox:1"
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "kubectl", MountPath: "/bin/kubectl", ReadOnly: true})
	for i := range c.Env {
		if c.Env[i].Name == "KEEP" {
			c.Env[i].Value = fmt.Sprint(keep)
		}
	}
}
