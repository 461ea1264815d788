package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/test/chart"
)

// template renders one template of the chart as a map, for kinds that are not of
// Kubernetes.
func template(t *testing.T, path, kind string, o chart.Options) map[string]any {
	t.Helper()
	rendered, err := theChart(t).Render(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(rendered["templates/"+path], "\n---\n") {
		var object map[string]any
		if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, document)
		}
		if object["kind"] == kind {
			return object
		}
	}
	t.Fatalf("%s has no %s", path, kind)
	return nil
}

func everything() chart.Options {
	return chart.Options{Values: chart.ValueSets()[chart.Everything]}
}

// Nothing optional is there unless it is asked for.
func TestOptionsAreOff(t *testing.T) {
	text := renderText(t, chart.Options{})
	for _, kind := range []string{"ServiceMonitor", "PrometheusRule", "ConfigMap", "NetworkPolicy", "Service", "Namespace", "CustomResourceDefinition"} {
		if strings.Contains(text, "\nkind: "+kind+"\n") {
			t.Errorf("without values there is a %s", kind)
		}
	}
	without := renderChart(t, chart.Options{Values: "snapshotController: {enabled: false}"})
	if n := len(of[*appsv1.Deployment](without)); n != 0 {
		t.Errorf("there are %d Deployments, and the snapshot controller is off", n)
	}
	for role := range rules(without) {
		if strings.Contains(role, "snapshot-controller") {
			t.Errorf("%s is there, and the snapshot controller is off", role)
		}
	}
}

func TestTheServiceMonitorFindsTheDriver(t *testing.T) {
	monitor := template(t, "monitoring/servicemonitor.yaml", "ServiceMonitor", everything())
	objects := renderChart(t, everything())
	service, set := of[*corev1.Service](objects)[0], of[*appsv1.DaemonSet](objects)[0]
	spec := monitor["spec"].(map[string]any)
	for key, value := range spec["selector"].(map[string]any)["matchLabels"].(map[string]any) {
		if service.Labels[key] != value {
			t.Errorf("it looks for services with %s=%s, ours has %v", key, value, service.Labels)
		}
	}
	for key, value := range service.Spec.Selector {
		if set.Spec.Template.Labels[key] != value {
			t.Errorf("the service is of pods with %s=%s, ours have %v", key, value, set.Spec.Template.Labels)
		}
	}
	if !service.Spec.PublishNotReadyAddresses || service.Spec.ClusterIP != corev1.ClusterIPNone {
		t.Errorf("the service is %+v", service.Spec)
	}
	endpoint := spec["endpoints"].([]any)[0].(map[string]any)
	port := service.Spec.Ports[0]
	driver := containerNamed(t, set.Spec.Template.Spec, "driver")
	if endpoint["port"] != port.Name || endpoint["path"] != "/metrics" || port.TargetPort.StrVal != driver.Ports[0].Name {
		t.Errorf("it asks %v, the service has %v, the driver %v", endpoint, port, driver.Ports)
	}
	if labels := monitor["metadata"].(map[string]any)["labels"].(map[string]any); labels["release"] != "stack" {
		t.Errorf("Prometheus does not find it by its labels %v", labels)
	}
	// The alert HoldfastDown knows the driver by the name of its job, which is that of
	// the service.
	if !strings.Contains(service.Name, "holdfast") || !strings.Contains(readFile(t, dashboards+"holdfast-alerts.yaml"), `up{job=~".*holdfast.*"}`) {
		t.Errorf("the job is called %s", service.Name)
	}
}

func TestThePrometheusRuleHasTheAlerts(t *testing.T) {
	rule := template(t, "monitoring/alertrules.yaml", "PrometheusRule", everything())
	var want map[string]any
	if err := yaml.UnmarshalStrict([]byte(readFile(t, dashboards+"holdfast-alerts.yaml")), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(want), rule["spec"]); diff != "" {
		t.Error(diff)
	}
	// As Prometheus gets them in the end.
	text, err := yaml.Marshal(rule["spec"])
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "", "check", "rules", "rules.yaml")
}

func TestTheConfigMapHasTheDashboard(t *testing.T) {
	maps := of[*corev1.ConfigMap](renderChart(t, everything()))
	if len(maps) != 1 {
		t.Fatalf("there are %d ConfigMaps, want one", len(maps))
	}
	m := maps[0]
	if got, want := strings.TrimSpace(m.Data["holdfast.json"]), strings.TrimSpace(readFile(t, dashboards+"holdfast.json")); got != want {
		t.Error("it is not the dashboard of deploy/dashboards")
	}
	if m.Namespace != "grafana" || m.Labels["grafana_dashboard"] != "1" {
		t.Errorf("Grafana does not find it in %s, by %v", m.Namespace, m.Labels)
	}
}

func TestTheNetworkPoliciesAreOfOurPods(t *testing.T) {
	objects := renderChart(t, everything())
	labels := map[string]map[string]string{"holdfast": of[*appsv1.DaemonSet](objects)[0].Spec.Template.Labels, "snapshot-controller": of[*appsv1.Deployment](objects)[0].Spec.Template.Labels}
	policies := of[*networkingv1.NetworkPolicy](objects)
	if len(policies) != 2 {
		t.Fatalf("there are %d policies, want one for each workload", len(policies))
	}
	all := pods(objects)
	for _, p := range policies {
		name := p.Spec.PodSelector.MatchLabels["app.kubernetes.io/name"]
		if labels[name]["app.kubernetes.io/name"] != name || name == "" {
			t.Errorf("%s is of pods %v", p.Name, p.Spec.PodSelector)
			continue
		}
		if len(p.Spec.PolicyTypes) != 2 || len(p.Spec.Ingress) != 1 || len(p.Spec.Egress) != 1 {
			t.Errorf("%s: %+v", p.Name, p.Spec)
			continue
		}
		in, out := p.Spec.Ingress[0], p.Spec.Egress[0]
		found := false
		for _, c := range all[name].Containers {
			for _, port := range c.Ports {
				found = found || port.Name == in.Ports[0].Port.StrVal
			}
		}
		if !found || len(in.From) != 1 || len(out.Ports) != 3 {
			t.Errorf("%s lets in %+v and out %+v", p.Name, in, out)
		}
	}
}
