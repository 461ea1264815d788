package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfast-csi/holdfast/test/chart"
)

func theChart(t *testing.T) chart.Chart {
	t.Helper()
	c, err := chart.In(repository)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// renderChart renders the chart with values and decodes what comes out.
func renderChart(t *testing.T, o chart.Options) []runtime.Object {
	t.Helper()
	return decode(t, "the chart", []byte(renderText(t, o)))
}

func renderText(t *testing.T, o chart.Options) string {
	t.Helper()
	rendered, err := theChart(t).Render(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, path := range slices.Sorted(maps.Keys(rendered)) {
		all = append(all, rendered[path])
	}
	return strings.Join(all, "---\n")
}

// installations are the objects of every way to install that is tested, by name.
func installations(t *testing.T) map[string][]runtime.Object {
	t.Helper()
	found := map[string][]runtime.Object{"overlay single-node": render(t, singleNode), "overlay microk8s": render(t, microk8s)}
	for name, values := range chart.ValueSets() {
		found["chart, "+name] = renderChart(t, chart.Options{Values: values})
	}
	return found
}

func TestHelmFindsNoFault(t *testing.T) {
	c := theChart(t)
	for name, values := range chart.ValueSets() {
		if out, err := c.Helm(t.Context(), values, "lint", "--strict", "--values=-", c.Dir()); err != nil {
			t.Errorf("with %s: %v\n%s", name, err, out)
		}
	}
}

// The kustomize base, the component, the copies in the chart and the reference of the
// values are what make manifests makes.
func TestNothingHasDriftedFromTheChart(t *testing.T) {
	drift, err := theChart(t).Drift(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range drift {
		t.Errorf("%s: run make manifests", line)
	}
}

// byName are objects by kind, namespace and name, as the chart and kustomize both have
// them: without the Namespace, which helm makes itself, and without what only Helm
// reads.
func byName(t *testing.T, objects []runtime.Object) map[string]runtime.Object {
	t.Helper()
	found := map[string]runtime.Object{}
	for _, o := range objects {
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		kind := o.GetObjectKind().GroupVersionKind().Kind
		if kind == "Namespace" {
			continue
		}
		if annotations := m.GetAnnotations(); annotations["helm.sh/resource-policy"] != "" {
			delete(annotations, "helm.sh/resource-policy")
			m.SetAnnotations(annotations)
		}
		found[kind+" "+m.GetNamespace()+"/"+m.GetName()] = o
	}
	return found
}

// Whoever installs with kubectl gets what whoever installs with Helm gets.
func TestChartAndOverlaysAreTheSame(t *testing.T) {
	for overlay, values := range map[string]string{
		singleNode: "",
		microk8s:   "kubeletDir: /var/snap/microk8s/common/var/lib/kubelet",
	} {
		want, got := byName(t, render(t, overlay)), byName(t, renderChart(t, chart.Options{Values: values}))
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s and the chart with the values %q differ (-overlay +chart):\n%s", overlay, values, diff)
		}
	}
}

// What Helm deletes is gone. Without the CSIDriver object Kubernetes would wait for an
// attach step that nobody does.
func TestUninstallKeepsTheCSIDriverObject(t *testing.T) {
	for _, o := range renderChart(t, chart.Options{}) {
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		_, isDriver := o.(*storagev1.CSIDriver)
		if kept := m.GetAnnotations()["helm.sh/resource-policy"] == "keep"; kept != isDriver {
			t.Errorf("%T %s: kept is %v", o, m.GetName(), kept)
		}
	}
}

func TestEveryObjectHasTheCommonLabels(t *testing.T) {
	for _, o := range renderChart(t, everything()) {
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatal(err)
		}
		if m.GetLabels()["owner"] != "me" || m.GetLabels()["app.kubernetes.io/part-of"] != "holdfast" || m.GetAnnotations()["example.org/page"] != "1" {
			t.Errorf("%T %s has the labels %v and the annotations %v", o, m.GetName(), m.GetLabels(), m.GetAnnotations())
		}
	}
}

// A selector cannot be changed later, so no value gets into one.
func TestSelectorsDependOnNoValue(t *testing.T) {
	objects := renderChart(t, everything())
	set, controller := of[*appsv1.DaemonSet](objects)[0], of[*appsv1.Deployment](objects)[0]
	for name, w := range map[string]struct{ selector, labels map[string]string }{
		"holdfast":            {set.Spec.Selector.MatchLabels, set.Spec.Template.Labels},
		"snapshot-controller": {controller.Spec.Selector.MatchLabels, controller.Spec.Template.Labels},
	} {
		if diff := cmp.Diff(map[string]string{"app.kubernetes.io/name": name}, w.selector); diff != "" {
			t.Errorf("the selector of %s: %s", name, diff)
		}
		if w.labels["app.kubernetes.io/name"] != name || w.labels["pod"] != "yes" || w.labels["owner"] != "me" {
			t.Errorf("the pods of %s have the labels %v", name, w.labels)
		}
	}
}

func TestValuesReachTheDriver(t *testing.T) {
	objects := renderChart(t, everything())
	pod := of[*appsv1.DaemonSet](objects)[0].Spec.Template.Spec
	driver := containerNamed(t, pod, "driver")
	for _, want := range []string{
		"--pool=default=/srv/holdfast/default", "--pool-size=default=100Gi", "--pool-filesystem=default=xfs",
		"--pool=ssd=/srv/holdfast/ssd", "--pool=hdd=/srv/holdfast/slow", "--pool-filesystem=hdd=xfs",
		"--host-reserve=5", "--overcommit=1.5", "--trim-interval=6h", "--freeze-timeout=5s", "--v=2", "--driver-name=csi.holdfast.dev",
	} {
		if !slices.Contains(driver.Args, want) {
			t.Errorf("the driver's arguments lack %s: %v", want, driver.Args)
		}
	}
	if got := hostPath(t, pod, "pools"); got != "/srv/holdfast" {
		t.Errorf("the pools are in %s of the host", got)
	}
	if diff := cmp.Diff([]corev1.LocalObjectReference{{Name: "registry"}}, pod.ImagePullSecrets); diff != "" {
		t.Error(diff)
	}
	if pod.NodeSelector["kubernetes.io/hostname"] != "store" || pod.Affinity == nil {
		t.Errorf("the driver is for the nodes %v, %v", pod.NodeSelector, pod.Affinity)
	}
}

// The class that claims get which name none is said to be one.
func TestOneClassIsTheDefault(t *testing.T) {
	for name, want := range map[string]string{"no values": "", chart.Everything: "fast"} {
		var defaults []string
		for _, c := range of[*storagev1.StorageClass](renderChart(t, chart.Options{Values: chart.ValueSets()[name]})) {
			if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
				defaults = append(defaults, c.Name)
			}
		}
		if got := strings.Join(defaults, ", "); got != want {
			t.Errorf("with %s the default classes are %q, want %q", name, got, want)
		}
	}
}

func TestClassesSayWhatTheirValuesSay(t *testing.T) {
	classes := map[string]*storagev1.StorageClass{}
	for _, c := range of[*storagev1.StorageClass](renderChart(t, everything())) {
		classes[c.Name] = c
	}
	fast, slow := classes["fast"], classes["slow"]
	if fast == nil || slow == nil || len(classes) != 2 {
		t.Fatalf("these classes are there: %v", slices.Collect(maps.Keys(classes)))
	}
	if diff := cmp.Diff(map[string]string{"csi.storage.k8s.io/fstype": "xfs", "pool": "ssd"}, fast.Parameters); diff != "" {
		t.Error(diff)
	}
	// A number among the values must not be written like 6.5536e+04.
	if diff := cmp.Diff(map[string]string{"csi.storage.k8s.io/fstype": "ext4", "pool": "hdd", "inodeRatio": "65536"}, slow.Parameters); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(fast.MountOptions, []string{"noatime"}) || *slow.ReclaimPolicy != corev1.PersistentVolumeReclaimRetain ||
		*slow.VolumeBindingMode != storagev1.VolumeBindingImmediate || slow.Annotations["team"] != "a" || slow.Labels["tier"] != "b" {
		t.Errorf("fast is %v, slow is %v", fast, slow)
	}
}

// The API of VolumeAttributesClass v1 came with 1.34; on older clusters nobody has
// rights on it.
func TestEveryVersionOfKubernetesGetsWhatItKnows(t *testing.T) {
	for minor := 31; minor <= 37; minor++ {
		version := fmt.Sprintf("v1.%d.0", minor)
		for name, values := range chart.ValueSets() {
			objects := renderChart(t, chart.Options{Values: values, Kubernetes: version})
			hasRule := false
			for _, r := range of[*rbacv1.ClusterRole](objects) {
				for _, rule := range r.Rules {
					hasRule = hasRule || slices.Contains(rule.Resources, "volumeattributesclasses")
				}
			}
			if want := minor >= 34; hasRule != want {
				t.Errorf("on %s with %s there are rights on volumeattributesclasses: %v, want %v", version, name, hasRule, want)
			}
			// Newer than 1.31: an older API server prunes it without a word.
			for _, d := range of[*storagev1.CSIDriver](objects) {
				want := minor >= 35 && len(d.Spec.TokenRequests) > 0
				if inSecrets := d.Spec.ServiceAccountTokenInSecrets; (inSecrets != nil && *inSecrets) != want {
					t.Errorf("on %s driver %s gets tokens in secrets: %v, want %v", version, d.Name, inSecrets, want)
				}
			}
		}
	}
	// As distributions call theirs.
	for _, version := range []string{"v1.31.14+k3s1", "v1.33.5-gke.1080000", "v1.36.3+rke2r1"} {
		renderChart(t, chart.Options{Kubernetes: version})
	}
	_, err := theChart(t).Render(t.Context(), chart.Options{Kubernetes: "v1.30.14"})
	if err == nil || !strings.Contains(err.Error(), "1.31") {
		t.Errorf("on 1.30 the chart says: %v", err)
	}
}

// The image that make image makes is the one that the chart names.
func TestTheChartIsOfTheImageThatIsMade(t *testing.T) {
	image := regexp.MustCompile(`(?m)^IMAGE \?= (\S+)$`).FindStringSubmatch(readFile(t, repository+"/Makefile"))
	if image == nil {
		t.Fatal("the Makefile names no image")
	}
	pod := of[*appsv1.DaemonSet](renderChart(t, chart.Options{}))[0].Spec.Template.Spec
	for _, name := range []string{"driver", "freeze-watchdog", "claim-node"} {
		if got := containerNamed(t, pod, name).Image; got != image[1] {
			t.Errorf("container %s has the image %s, make image makes %s", name, got, image[1])
		}
	}
}

// What a developer has set for a helm of their own changes nothing here.
func TestTheHelmOfTheTestsSeesNothingOfTheUsers(t *testing.T) {
	c := theChart(t)
	t.Setenv("HELM_NAMESPACE", "theirs")
	t.Setenv("HELM_REPOSITORY_CONFIG", "/theirs/repositories.yaml")
	for _, variable := range []string{"HELM_NAMESPACE", "HELM_REPOSITORY_CONFIG"} {
		if out, err := c.Helm(t.Context(), "", "env", variable); err != nil || strings.Contains(out, "theirs") {
			t.Errorf("%s is %q, %v", variable, out, err)
		}
	}
}
