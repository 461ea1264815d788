package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/test/chart"
)

// The types of the Prometheus operator, whose CRDs are in its module.
const (
	operatorModule = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
	operatorCRDs   = "example/prometheus-operator-crd/monitoring.coreos.com_"
)

// chartIsAccepted has the API server check what the chart renders with each set of
// values, by kubectl with these arguments and by helm itself, and returns how many
// objects that were.
func (s *scene) chartIsAccepted(check []string) int {
	s.t.Helper()
	h := &charted{access: s.access}
	var err error
	h.chart, err = chart.In(tree)
	s.must(err)
	s.operatorTypes()
	objects := 0
	for name, values := range chart.ValueSets() {
		// The namespace that Grafana is told to look in is another one on each cluster.
		values = strings.ReplaceAll(values, "namespace: grafana", "namespace: "+s.ns)
		rendered, err := h.chart.Render(s.ctx, chart.Options{Values: values})
		s.must(err)
		var text []string
		for _, object := range rendered {
			text = append(text, object)
		}
		file := filepath.Join(s.t.TempDir(), "chart.yaml")
		s.must(os.WriteFile(file, []byte(strings.Join(text, "---\n")), 0o600))
		out, err := s.cluster.Kubectl(s.ctx, append(check, "-f", file)...)
		if err != nil {
			s.t.Errorf("the chart with %s: %v\n%s", name, err, out)
		}
		objects += strings.Count(out, "(server dry run)")
		if _, err := h.helm(s.ctx, values, "install", release, h.chart.Dir(), "--dry-run=server", "--take-ownership", "--force-conflicts", "--values=-"); err != nil {
			s.t.Errorf("helm install --dry-run=server with %s: %v", name, err)
		}
	}
	return objects
}

// operatorTypes makes the CRDs of the Prometheus operator, until the test has ended.
func (s *scene) operatorTypes() {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(s.ctx, "go", "mod", "download", "-json", operatorModule)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.t.TempDir(), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("download %s, which has the types of ServiceMonitor and PrometheusRule: %v\n%s%s", operatorModule, err, stdout.String(), stderr.String())
	}
	var module struct{ Dir string }
	s.must(json.Unmarshal(stdout.Bytes(), &module))
	for _, kind := range []string{"servicemonitors", "prometheusrules"} {
		path := filepath.Join(module.Dir, operatorCRDs+kind+".yaml")
		_, err := s.cluster.Kubectl(s.ctx, "apply", "--server-side", "-f", path)
		s.must(err)
		s.afterwards(func(late *scene) {
			_, err := late.cluster.Kubectl(late.ctx, "delete", "-f", path, "--ignore-not-found")
			late.must(err)
		})
		_, err = s.cluster.Kubectl(s.ctx, "wait", "--for=condition=Established", "--timeout=60s", "-f", path)
		s.must(err)
	}
}
