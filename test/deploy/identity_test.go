package deploy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/test/chart"
)

const (
	identityOverlay  = kustomize + "overlays/identity"
	identitySources  = kustomize + "overlays/identity-sources"
	identityMicrok8s = kustomize + "overlays/microk8s-identity"
)

// What the administrator wrote, an upgrade must not take back.
func TestNoOverlayHasSourcesButTheOneToCopy(t *testing.T) {
	for _, dir := range []string{identityOverlay, identityMicrok8s, singleNode, microk8s} {
		for name, kind := range contents(t, dir) {
			if kind == "ConfigMap" {
				t.Errorf("kubectl apply -k %s writes %s", dir, name)
			}
		}
	}
	for _, v := range of[*appsv1.DaemonSet](render(t, identityOverlay))[0].Spec.Template.Spec.Volumes {
		if v.Name == "sources" && (v.ConfigMap.Optional == nil || !*v.ConfigMap.Optional) {
			t.Error("without sources the driver cannot say what is missing")
		}
	}
}

// Another directory of kubelet's is the same in every place, and nothing else changes.
func TestTheOverlayOfMicroK8sChangesOneDirectory(t *testing.T) {
	const directory = "/var/snap/microk8s/common/var/lib/kubelet"
	want := byName(t, renderChart(t, chart.Options{Values: "kubeletDir: " + directory + "\nidentity: {enabled: true}\n"}))
	for name, got := range byName(t, render(t, identityMicrok8s)) {
		if set, ok := want[name].(*appsv1.DaemonSet); ok {
			delete(set.Spec.Template.Annotations, "holdfast.dev/sources")
		}
		if diff := cmp.Diff(want[name], got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-chart +overlay):\n%s", name, diff)
		}
	}
}

func TestTheIdentityDriverHasNoRightButEvents(t *testing.T) {
	for role, list := range rules(render(t, identityOverlay)) {
		for _, rule := range list {
			if !slices.Equal(rule.Resources, []string{"events"}) || !slices.Equal(rule.Verbs, []string{"create", "patch"}) {
				t.Errorf("%s may %v %v", role, rule.Verbs, rule.Resources)
			}
		}
	}
	if n := len(of[*rbacv1.ClusterRoleBinding](render(t, identityOverlay))); n != 1 {
		t.Errorf("%d bindings", n)
	}
}

// What the driver sees of the host is where pods' volumes are, and its socket.
func TestTheIdentityDriverSeesNoPoolAndNoDevice(t *testing.T) {
	pod := of[*appsv1.DaemonSet](render(t, identityOverlay))[0].Spec.Template.Spec
	var host []string
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			host = append(host, v.HostPath.Path)
		}
	}
	slices.Sort(host)
	want := []string{"/var/lib/kubelet/plugins/identity.csi.holdfast.dev", "/var/lib/kubelet/plugins_registry", "/var/lib/kubelet/pods"}
	if !slices.Equal(host, want) {
		t.Errorf("it has %q of the host, want %q", host, want)
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC || *pod.AutomountServiceAccountToken {
		t.Error("it is in the host's namespaces, or has a token in every container")
	}
	for _, c := range pod.Containers {
		privileged := c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		if privileged != (c.Name == "driver") || !*c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s: privileged %v, its root can be written: %v", c.Name, privileged, !*c.SecurityContext.ReadOnlyRootFilesystem)
		}
	}
}

// For each audience in the sources kubelet is asked for tokens, and the API server's
// own is never among them.
func TestTheIdentityDriverAsksForTheTokensOfItsSources(t *testing.T) {
	objects := render(t, identitySources)
	driver := of[*storagev1.CSIDriver](objects)[0]
	var asked []string
	for _, r := range driver.Spec.TokenRequests {
		asked = append(asked, r.Audience)
	}
	sources, err := credential.Parse([]byte(of[*corev1.ConfigMap](objects)[0].Data["sources.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(asked)
	if !slices.Equal(asked, sources.Audiences()) || slices.Contains(asked, "") {
		t.Errorf("it asks for %q, its sources take %q", asked, sources.Audiences())
	}
	s := driver.Spec
	for what, is := range map[string]*bool{
		"podInfoOnMount": s.PodInfoOnMount, "requiresRepublish": s.RequiresRepublish, "serviceAccountTokenInSecrets": s.ServiceAccountTokenInSecrets,
	} {
		if is == nil || !*is {
			t.Errorf("%s is not set", what)
		}
	}
	if *s.AttachRequired || !slices.Equal(s.VolumeLifecycleModes, []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}) {
		t.Errorf("attachRequired %v, modes %v", *s.AttachRequired, s.VolumeLifecycleModes)
	}
	args := of[*appsv1.DaemonSet](objects)[0].Spec.Template.Spec.Containers[0].Args
	if !strings.Contains(strings.Join(args, " "), "--mode=identity") {
		t.Errorf("args %q", args)
	}
}
