package deploy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/metric"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const dashboards = repository + "/deploy/dashboards/"

var (
	// metricName finds what a query asks for.
	metricName = regexp.MustCompile(`\b(holdfast_[a-z_]+|csi_plugin_[a-z_]+)\b`)
	// metricRow finds what metrics.md describes, which a test in test/docs compares
	// with the driver: the name and the type.
	metricRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+) \\|")
	// askedReason finds the reasons that a query asks for.
	askedReason = regexp.MustCompile(`reason[!=~]+"([A-Za-z|]+)"`)
	reasonRow   = regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|")
)

// describedMetrics are all series that the driver can have.
func describedMetrics(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, m := range metricRow.FindAllStringSubmatch(readFile(t, repository+"/docs/reference/metrics.md"), -1) {
		if m[2] != "histogram" {
			names[m[1]] = true
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			names[m[1]+suffix] = true
		}
	}
	if len(names) < 20 {
		t.Fatalf("metrics.md describes %d series", len(names))
	}
	return names
}

// checkExpression complains about metrics and reasons that there are not.
func checkExpression(t *testing.T, where, expr string) {
	t.Helper()
	known := describedMetrics(t)
	asked := metricName.FindAllString(expr, -1)
	if len(asked) == 0 {
		t.Errorf("%s asks for nothing of ours: %s", where, expr)
	}
	for _, name := range asked {
		if !known[name] {
			t.Errorf("%s asks for %s, which the driver does not have", where, name)
		}
	}
	var reasons []string
	for _, m := range reasonRow.FindAllStringSubmatch(readFile(t, repository+"/docs/reference/health.md"), -1) {
		reasons = append(reasons, m[1])
	}
	for _, m := range askedReason.FindAllStringSubmatch(expr, -1) {
		for reason := range strings.SplitSeq(m[1], "|") {
			if !slices.Contains(reasons, reason) {
				t.Errorf("%s asks for the reason %s, which no condition has", where, reason)
			}
		}
	}
}

// promtool runs the program of that name in dir, or skips the test.
func promtool(t *testing.T, dir, input string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is missing: apt-get install prometheus")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

var (
	alertName = regexp.MustCompile(`(?m)^ +- alert: (\w+)$`)
	alertExpr = regexp.MustCompile(`(?m)^ +expr: (.+)$`)
)

func TestAlertsAskForWhatThereIs(t *testing.T) {
	rules := readFile(t, dashboards+"holdfast-alerts.yaml")
	names, exprs := alertName.FindAllStringSubmatch(rules, -1), alertExpr.FindAllStringSubmatch(rules, -1)
	if len(names) == 0 || len(names) != len(exprs) {
		t.Fatalf("%d alerts with %d expressions", len(names), len(exprs))
	}
	tests, monitoring := readFile(t, "testdata/alerts.yaml"), guide(t, "monitoring.md")
	for i, name := range names {
		checkExpression(t, name[1], exprs[i][1])
		if !strings.Contains(tests, name[1]+`"`) && !strings.Contains(tests, "alertname: "+name[1]+"\n        exp_alerts:") {
			t.Errorf("no test makes %s fire", name[1])
		}
		if !strings.Contains(monitoring, "| `"+name[1]+"` |") {
			t.Errorf("monitoring.md does not say what %s means", name[1])
		}
	}
}

func TestAlertsFireForWhatTheyMean(t *testing.T) {
	dir := t.TempDir()
	for from, to := range map[string]string{dashboards + "holdfast-alerts.yaml": "holdfast-alerts.yaml", "testdata/alerts.yaml": "alerts.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, to), []byte(readFile(t, from)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, dir, "", "check", "rules", "holdfast-alerts.yaml")
	promtool(t, dir, "", "test", "rules", "alerts.yaml")
}

// dashboard is what of a Grafana dashboard can be wrong without its being JSON.
type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Panels []struct {
		ID          int
		Type, Title string
		GridPos     struct{ H, W, X, Y int }
		Targets     []struct{ Expr string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(readFile(t, dashboards+"holdfast.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheDashboardAsksForWhatThereIs(t *testing.T) {
	d := readDashboard(t)
	ids, taken, variables := map[int]bool{}, map[[2]int]string{}, map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if v.Definition != "" {
			checkExpression(t, "variable "+v.Name, v.Definition)
		}
	}
	variable := regexp.MustCompile(`\$(\w+)`)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: an id that another has, or no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies on %q, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpression(t, "panel "+p.Title, target.Expr)
			for _, m := range variable.FindAllStringSubmatch(target.Expr, -1) {
				if !variables[m[1]] {
					t.Errorf("panel %q: there is no variable $%s", p.Title, m[1])
				}
			}
		}
	}
}

// TestTheDashboardIsPromQL has promtool parse each query, as a recording rule.
func TestTheDashboardIsPromQL(t *testing.T) {
	fill := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$pool", ".*")
	rules := "groups:\n  - name: dashboard\n    rules:\n"
	for _, p := range readDashboard(t).Panels {
		for i, target := range p.Targets {
			rules += fmt.Sprintf("      - {record: 'panel:%d:%d', expr: %q}\n", p.ID, i, fill.Replace(target.Expr))
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "", "check", "rules", "rules.yaml")
}

// Every metric is worth a look: one that neither the dashboard nor an alert shows is
// forgotten, or not needed.
func TestEveryMetricIsShown(t *testing.T) {
	shown := readFile(t, dashboards+"holdfast.json") + readFile(t, dashboards+"holdfast-alerts.yaml")
	for _, m := range metricRow.FindAllStringSubmatch(readFile(t, repository+"/docs/reference/metrics.md"), -1) {
		if strings.HasPrefix(m[1], "holdfast_") && !strings.Contains(shown, m[1]) {
			t.Errorf("%s is shown nowhere", m[1])
		}
	}
}

// TestMetricsAreNamedAsPrometheusWants has promtool read a page of metrics.
func TestMetricsAreNamedAsPrometheusWants(t *testing.T) {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(metric.Gatherer(onePool{}), promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(w.Body.String(), "holdfast_volume_extents{") {
		t.Fatalf("not all metrics are there:\n%s", w.Body)
	}
	promtool(t, t.TempDir(), w.Body.String(), "check", "metrics")
}

// onePool is an engine that has a value for every metric.
type onePool struct{}

func (onePool) Stats() []backend.PoolStats {
	wrong := []volume.Condition{{Severity: volume.Degraded, Reason: "DirectIOOff", Message: "x"}}
	return []backend.PoolStats{{
		Pool: volume.Pool{Name: "default", Available: true}, Looked: time.Unix(1, 0), Size: volume.GiB, Image: true, Conditions: wrong,
		Volumes: []backend.VolumeStats{{ID: "vol.a", Extents: 1, Attached: 1, Conditions: wrong}},
	}}
}
