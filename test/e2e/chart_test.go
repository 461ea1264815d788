package e2e

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/test/chart"
)

const (
	release = "holdfast"
	overlay = "deploy/kustomize/overlays/single-node"
	crds    = "deploy/kustomize/components/snapshot-controller/crds"
)

// charted is a cluster on which Holdfast is installed by Helm instead of kubectl.
type charted struct {
	access
	chart  chart.Chart
	values map[string]any // what the machine's disk has room for
}

// withoutManifests takes everything away that kubectl has installed, CRDs and namespace
// too, and has it put back when the test has ended. Helm takes it over before that, as
// it does for users who move from one to the other.
func withoutManifests(t *testing.T) *charted {
	t.Helper()
	a := openFor(t)
	c, err := chart.In(tree)
	if err != nil {
		t.Fatal(err)
	}
	h := &charted{access: a, chart: c}
	if h.values, err = h.pool(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*aWhile)
		defer cancel()
		_, err := h.helm(ctx, "", "uninstall", release, "--ignore-not-found", "--wait", "--timeout=2m")
		if err := errors.Join(err, a.cluster.Apply(ctx)); err != nil {
			t.Errorf("put back what the test found: %v", err)
		}
	})
	if _, err := h.apply(t.Context(), "install", c.Dir(), nil, "--take-ownership", "--force-conflicts"); err != nil {
		t.Errorf("take over what kubectl has installed: %v", err)
	} else if err := h.uninstall(t.Context()); err != nil {
		t.Errorf("uninstall what kubectl had installed: %v", err)
	}
	if out, err := a.cluster.Kubectl(t.Context(), "delete", "-k", filepath.Join(tree, overlay), "--ignore-not-found", "--timeout=180s"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := a.cluster.Kubectl(t.Context(), "delete", "-f", filepath.Join(tree, crds), "--ignore-not-found", "--timeout=180s"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return h
}

// pool are the values for the pool that the driver has now: the machine of a test may
// have less room than that of a user.
func (h *charted) pool(ctx context.Context) (map[string]any, error) {
	set, err := h.kube.AppsV1().DaemonSets(driverNamespace).Get(ctx, driverSet, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	for _, arg := range container(&set.Spec.Template.Spec, driverContainer).Args {
		if size, ok := strings.CutPrefix(arg, "--pool-size="); ok {
			_, bare, named := strings.Cut(size, "=")
			if !named {
				bare = size
			}
			values["pools"] = []map[string]string{{"name": "default", "size": bare}}
		}
		if percent, ok := strings.CutPrefix(arg, "--host-reserve="); ok {
			number, err := strconv.Atoi(percent)
			if err != nil {
				return nil, err
			}
			values["hostReserve"] = number
		}
	}
	if _, small := values["hostReserve"]; !small { // there is room for what a user gets
		return nil, nil
	}
	return values, nil
}

// helm runs helm on the cluster, in the driver's namespace.
func (h *charted) helm(ctx context.Context, values string, args ...string) (string, error) {
	config, _ := h.cluster.Kubeconfig()
	return h.chart.Helm(ctx, values, append(args, "--kubeconfig="+config, "--namespace="+driverNamespace)...)
}

// apply runs helm install or upgrade with a chart, and with the values of the machine
// and more, and waits until all is ready.
func (h *charted) apply(ctx context.Context, verb, dir string, more map[string]any, flags ...string) (string, error) {
	text, err := yaml.Marshal(merged(h.values, more))
	if err != nil {
		return "", err
	}
	args := append([]string{verb, release, dir, "--values=-", "--wait", "--timeout=3m"}, flags...)
	if verb == "install" {
		args = append(args, "--create-namespace")
	}
	return h.helm(ctx, string(text), args...)
}

// merged are values, and others in their place.
func merged(values, others map[string]any) map[string]any {
	all := map[string]any{}
	maps.Copy(all, values)
	maps.Copy(all, others)
	return all
}

// uninstall runs helm uninstall and waits until no pod of the driver is left.
func (h *charted) uninstall(ctx context.Context) error {
	if _, err := h.helm(ctx, "", "uninstall", release, "--wait", "--timeout=3m"); err != nil {
		return err
	}
	return noneOf(ctx, all(h.kube.CoreV1().Pods(driverNamespace), "pods of the driver"), func(*corev1.Pod) bool { return true })
}

// TestTheChartFromInstallToUninstall does with Helm what a user does in a year: installs
// on a cluster that has nothing of Holdfast, upgrades from the chart before this one,
// rolls back, uninstalls and installs again, while pods write to volumes of every kind.
func TestTheChartFromInstallToUninstall(t *testing.T) {
	h := withoutManifests(t)
	h.values = merged(h.values, chartIdentity())
	first, images := h.chart.Dir(), map[string]any{}
	before, why := previousChart(t)
	if before != "" {
		first, images = before, imagesHere(t, before, h.chart.Dir())
	}
	t.Logf("helm install of %s", why)
	notes, err := h.apply(t.Context(), "install", first, images)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(notes, "daemonset/holdfast") {
		t.Errorf("helm install says nothing of what to do next:\n%s", notes)
	}
	s := newScene(t)
	s.afterwards(func(late *scene) { // the scene cannot be removed without a driver
		if _, err := late.kube.AppsV1().DaemonSets(driverNamespace).Get(late.ctx, driverSet, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			late.bring(h, "install", nil)
		}
	})
	const newer = driverImage + ":v0.1.1-chart"
	s.must(s.cluster.BuildDriverImage(s.ctx, newer))
	s.afterwards(func(late *scene) { late.must(late.cluster.RemoveImage(late.ctx, newer)) })
	s.used("installed")
	writers := s.writers()
	kept := s.kept()
	identified := s.identified()

	s.undisturbed(writers, "helm upgrade", func() {
		s.bring(h, "upgrade", map[string]any{"images": map[string]any{"driver": map[string]any{"tag": "v0.1.1-chart"}}})
	})
	if image := container(&s.driverPod().Spec, driverContainer).Image; image != newer {
		t.Errorf("after the upgrade the driver is %s, want %s", image, newer)
	}
	s.used("upgraded")
	identified.check()
	t.Run("from the chart of an earlier commit", func(t *testing.T) {
		if before == "" {
			t.Skip(why)
		}
	})
	s.undisturbed(writers, "helm rollback", func() {
		_, err := h.helm(s.ctx, "", "rollback", release, "1", "--wait", "--timeout=3m")
		s.must(err)
		s.awaitRollout()
	})
	if image := container(&s.driverPod().Spec, driverContainer).Image; image == newer {
		t.Errorf("after the rollback the driver is still %s", image)
	}
	s.used("rolled back")
	identified.check()

	s.undisturbed(writers, "helm uninstall", func() {
		s.must(h.uninstall(s.ctx))
		s.uninstalled(kept)
	})
	s.uninstalled(kept)
	identified.withoutDriver()

	s.undisturbed(writers, "helm install after the uninstall", func() { s.bring(h, "install", nil) })
	s.used("installed again")
	kept.restored.verify("/data/file", 1)
	s.claim(restoreOf("kept", newClaim("kept-again", classExt4, small)))
	s.run(idle("kept-again", "kept-again")).verify("/data/file", 1)
	s.deleteSnapshot("kept")
	s.refusesASecond(h)
	s.leavesAnotherControllerAlone(h)
	identified.back()
	for _, w := range writers {
		w.finish()
	}
}

// bring brings the chart of this tree onto the cluster.
func (s *scene) bring(h *charted, verb string, more map[string]any) {
	s.t.Helper()
	_, err := h.apply(s.ctx, verb, h.chart.Dir(), more)
	s.must(err)
	s.awaitRollout()
}

// used does what everybody does with a driver: a claim of a first pod, a snapshot, a
// restore, growth; and a deletion.
func (s *scene) used(when string) {
	s.t.Helper()
	name := label(when)
	app := s.runClaim(newClaim(name, classXFS, smallXFS))
	app.write("/data/file", 1)
	s.snapshot(name, name, classSnapshot)
	app.write("/data/file", 2)
	restored := s.runClaim(restoreOf(name, newClaim(name+"-restored", classXFS, smallXFS)))
	restored.verify("/data/file", 1)
	s.edit(name, "512Mi")
	app.growsTo("512Mi")
	s.hasRoom(app, "512Mi")
	app.verify("/data/file", 2)
	for _, p := range []*pod{app, restored} {
		p.delete()
		s.deleteClaim(p.name)
	}
	s.deleteSnapshot(name)
	s.step("%s: a claim, a snapshot, a restore, growth and deletion worked", when)
}

// keptObjects are what an uninstall must not take away.
type keptObjects struct {
	volumes  []string // PersistentVolumes of the scene
	restored *pod     // uses a claim that was restored from the snapshot "kept"
}

func (s *scene) kept() keptObjects {
	s.t.Helper()
	app := s.runClaim(newClaim("keeper", classExt4, small))
	app.write("/data/file", 1)
	s.snapshot("kept", "keeper", classSnapshot)
	app.write("/data/file", 2)
	k := keptObjects{restored: s.runClaim(restoreOf("kept", newClaim("kept-restored", classExt4, small)))}
	list, err := s.kube.CoreV1().PersistentVolumes().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for i := range list.Items {
		if ofNamespace(&list.Items[i], s.ns) {
			k.volumes = append(k.volumes, list.Items[i].Name)
		}
	}
	return k
}

// uninstalled demands that all that is the user's is still there and none of it waits
// to be deleted, that pods with volumes run, and that nothing else is left.
func (s *scene) uninstalled(k keptObjects) {
	s.t.Helper()
	for _, name := range k.volumes {
		pv, err := s.kube.CoreV1().PersistentVolumes().Get(s.ctx, name, metav1.GetOptions{})
		s.must(err)
		if pv.DeletionTimestamp != nil || pv.Status.Phase != corev1.VolumeBound {
			s.t.Errorf("volume %s is %s, being deleted since %v", name, pv.Status.Phase, pv.DeletionTimestamp)
		}
	}
	snapshot, err := s.snap.SnapshotV1().VolumeSnapshots(s.ns).Get(s.ctx, "kept", metav1.GetOptions{})
	s.must(err)
	content, err := s.snap.SnapshotV1().VolumeSnapshotContents().Get(s.ctx, *snapshot.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
	s.must(err)
	if snapshot.DeletionTimestamp != nil || content.DeletionTimestamp != nil || !*snapshot.Status.ReadyToUse {
		s.t.Errorf("the snapshot is not as it was:\n%s\n%s", asYAML(snapshot), asYAML(content))
	}
	ns, err := s.kube.CoreV1().Namespaces().Get(s.ctx, driverNamespace, metav1.GetOptions{})
	s.must(err)
	if ns.DeletionTimestamp != nil {
		s.t.Errorf("the namespace %s is being deleted", driverNamespace)
	}
	// Without the CSIDriver object Kubernetes would wait for an attach step.
	_, err = s.kube.StorageV1().CSIDrivers().Get(s.ctx, driverName, metav1.GetOptions{})
	s.must(err)
	attachments, err := s.kube.StorageV1().VolumeAttachments().List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for _, a := range attachments.Items {
		if a.Spec.Attacher == driverName {
			s.t.Errorf("somebody waits for an attach step:\n%s", asYAML(&a))
		}
	}
	pods, err := s.kube.CoreV1().Pods(s.ns).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	for _, p := range pods.Items {
		if !running(&p) || p.DeletionTimestamp != nil {
			s.t.Errorf("pod %s does not run any more:\n%s", p.Name, asYAML(&p))
		}
	}
	k.restored.verify("/data/file", 1)
	left, err := s.cluster.Kubectl(s.ctx, "get", "clusterroles,clusterrolebindings,storageclasses,volumesnapshotclasses", "-l", "app.kubernetes.io/part-of=holdfast", "-o", "name")
	s.must(err)
	if left != "" && !strings.HasPrefix(left, "No resources") {
		s.t.Errorf("this is left of the release:\n%s", left)
	}
}

// refusesASecond demands that a second release is refused, and says why.
func (s *scene) refusesASecond(h *charted) {
	s.t.Helper()
	_, err := h.helm(s.ctx, "", "install", "second", h.chart.Dir())
	if err == nil || !strings.Contains(err.Error(), "ownership") {
		s.t.Errorf("a second release ends with %v, want words about ownership", err)
	}
	list, err := h.helm(s.ctx, "", "list", "--short", "--all-namespaces")
	s.must(err)
	if got := strings.Fields(list); !slices.Contains(got, release) {
		s.t.Errorf("after a second release was refused there are %v", got)
	}
	s.awaitRollout()
}

// leavesAnotherControllerAlone demands that the chart has no snapshot controller where
// the cluster has one already.
func (s *scene) leavesAnotherControllerAlone(h *charted) {
	s.t.Helper()
	const foreign = "rke2-snapshot-controller"
	const ours = "# Source: holdfast/templates/snapshot-controller/deployment.yaml"
	upgrade := func() string {
		out, err := h.helm(s.ctx, "", "upgrade", release, h.chart.Dir(), "--reuse-values", "--dry-run=server")
		s.must(err)
		return out
	}
	if out := upgrade(); !strings.Contains(out, ours) {
		s.t.Errorf("the chart has no snapshot controller, and nobody else has:\n%s", out)
	}
	labels := map[string]string{"app": foreign}
	spec := podSpec("idle")
	spec.RestartPolicy = corev1.RestartPolicyAlways
	_, err := s.kube.AppsV1().Deployments(s.ns).Create(s.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: foreign},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32), // it need not run to be seen
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}, metav1.CreateOptions{})
	s.must(err)
	if out := upgrade(); strings.Contains(out, ours) || !strings.Contains(out, "the cluster's own snapshot controller, "+s.ns+"/"+foreign) {
		s.t.Errorf("the chart does not leave %s alone:\n%s", foreign, out)
	}
}
