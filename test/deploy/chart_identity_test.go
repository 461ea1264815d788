package deploy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/test/chart"
)

// identityDriver finds the CSIDriver object of identity volumes.
func identityDriver(t *testing.T, o chart.Options) *storagev1.CSIDriver {
	t.Helper()
	for _, d := range of[*storagev1.CSIDriver](renderChart(t, o)) {
		if d.Name == "identity.csi.holdfast.dev" {
			return d
		}
	}
	t.Fatal("there is no driver of identity volumes")
	return nil
}

// Whoever installs identity volumes with Helm gets what the overlay has, and what tells
// the driver of a change.
func TestIdentityVolumesAreThoseOfTheOverlay(t *testing.T) {
	objects := renderChart(t, chart.Options{Values: "identity: {enabled: true}"})
	for _, s := range of[*appsv1.DaemonSet](objects) {
		if s.Name == "holdfast-identity" {
			if s.Spec.Template.Annotations["holdfast.dev/sources"] == "" {
				t.Error("the driver is not restarted when its sources change")
			}
			delete(s.Spec.Template.Annotations, "holdfast.dev/sources")
		}
	}
	got := byName(t, objects)
	for name, want := range byName(t, render(t, kustomize+"overlays/identity")) {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-overlay +chart):\n%s", name, diff)
		}
	}
	if drivers := of[*storagev1.CSIDriver](renderChart(t, chart.Options{})); len(drivers) != 1 {
		t.Errorf("without being asked for there are %d drivers", len(drivers))
	}
}

// kubelet hands out a token for each audience that a source names, and for no other.
func TestTokensAreOfTheAudiencesOfTheSources(t *testing.T) {
	set := chart.ValueSets()["identity volumes"]
	seconds := int64(7200)
	want := []storagev1.TokenRequest{{Audience: "shop", ExpirationSeconds: &seconds}, {Audience: "vault", ExpirationSeconds: &seconds}}
	if diff := cmp.Diff(want, identityDriver(t, chart.Options{Values: set}).Spec.TokenRequests); diff != "" {
		t.Error(diff)
	}
	for _, m := range of[*corev1.ConfigMap](renderChart(t, chart.Options{Values: set})) {
		text := m.Data["sources.yaml"]
		if !strings.Contains(text, "vault.shop.svc") || !strings.Contains(text, "  token:") || strings.Contains(text, "vault.vault.svc") {
			t.Errorf("these are the sources:\n%s", text)
		}
	}
}

// A source that names no audience has the one of its service, and its driver shows no
// other token. What the driver reads of the rendered file says which.
func TestEachKindOfSourceGetsItsTokens(t *testing.T) {
	for kind, source := range map[string]string{
		"vault":       `vault: {address: "https://v:8200", audience: v, auth: {method: jwt}}`,
		"oidc":        `oidc: {tokenURL: "https://sts.example.org/token", audience: sts}`,
		"token":       `token: {audience: mine}`,
		"aws":         `aws: {region: eu-central-1, roles: ["arn:aws:iam::1:role/a"]}`,
		"aws, named":  `aws: {region: eu-central-1, roles: ["arn:aws:iam::1:role/a"], audience: other}`,
		"gcp":         `gcp: {provider: projects/1/locations/global/workloadIdentityPools/p/providers/c, serviceAccounts: ["a-*"]}`,
		"gcp, named":  `gcp: {provider: projects/1/locations/global/workloadIdentityPools/p/providers/c, audience: other}`,
		"two of them": "{aws: {region: eu-central-1, role: \"arn:aws:iam::1:role/a\"}}\n    b: {token: {audience: mine}}",
	} {
		if !strings.HasPrefix(source, "{") {
			source = "{" + source + "}"
		}
		objects := renderChart(t, chart.Options{Values: "identity:\n  enabled: true\n  sources:\n    vault: null\n    token: null\n    a: " + source + "\n"})
		var asked []string
		for _, d := range of[*storagev1.CSIDriver](objects) {
			for _, r := range d.Spec.TokenRequests {
				asked = append(asked, r.Audience)
			}
		}
		for _, m := range of[*corev1.ConfigMap](objects) {
			if m.Name != "holdfast-identity-sources" {
				continue
			}
			sources, err := credential.Parse([]byte(m.Data["sources.yaml"]))
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if diff := cmp.Diff(sources.Audiences(), asked); diff != "" {
				t.Errorf("%s (-the driver takes +kubelet makes):\n%s", kind, diff)
			}
		}
	}
}

// Each driver has a Service of its own, by whose name Prometheus calls its job.
func TestTheServiceMonitorFindsBothDrivers(t *testing.T) {
	objects := renderChart(t, chart.Options{Values: chart.ValueSets()["identity volumes"]})
	found := map[string]bool{}
	for _, service := range of[*corev1.Service](objects) {
		for _, s := range of[*appsv1.DaemonSet](objects) {
			if s.Spec.Template.Labels["app.kubernetes.io/name"] == service.Spec.Selector["app.kubernetes.io/name"] {
				found[s.Name] = service.Labels["app.kubernetes.io/component"] == "metrics"
			}
		}
	}
	if diff := cmp.Diff(map[string]bool{"holdfast": true, "holdfast-identity": true}, found); diff != "" {
		t.Error(diff)
	}
}
