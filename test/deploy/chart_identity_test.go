package deploy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

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
