package docs

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/metric"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// startDriver runs a driver with a pool that is not there, which needs no root,
// and returns the address of its metrics.
func startDriver(t *testing.T) (address string) {
	t.Helper()
	// The path of a unix socket is short; that of a test's directory may not be.
	dir, err := os.MkdirTemp("", "docs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"kubelet", "state", "pool"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	address = freeAddress(t)
	socket := filepath.Join(dir, "csi.sock")
	cmd := exec.Command(buildDriver(t), "--endpoint=unix://"+socket, "--node-id=docs", "--kubelet-dir="+filepath.Join(dir, "kubelet"),
		"--state-dir="+filepath.Join(dir, "state"), "--pool="+filepath.Join(dir, "pool"), "--http-endpoint="+address)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the driver ended with %v:\n%s", err, log.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := orchestrator.Dial(ctx, socket, filepath.Join(dir, "kubelet"))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	return address
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var (
	typeLine  = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)
	labelName = regexp.MustCompile(`(\w+)="`)
)

func TestMetricsAreDocumented(t *testing.T) {
	address := startDriver(t)
	page := get(t, "http://"+address+"/metrics")
	if got := get(t, "http://"+address+"/healthz"); got != "ok\n" {
		t.Errorf("/healthz says %q", got)
	}

	// By metric: its type, and its labels in order. The driver has no pool to show.
	want, got := engineMetrics(t), map[string]string{}
	for _, m := range typeLine.FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(m[1], "holdfast_") {
			want[m[1]] = m[2] + " " + labelsOf(page, m[1])
		} else if want[m[1]] == "" {
			t.Errorf("the driver shows %s, which this test does not know", m[1])
		}
	}
	if !strings.Contains(page, `holdfast_pool_available{pool="default"`) {
		t.Errorf("the driver shows no pool:\n%s", page)
	}
	for _, heading := range []string{"## Calls", "## Pools", "## Volumes"} {
		for _, row := range rows(t, section(t, readFile(t, "docs/reference/metrics.md"), heading)) {
			got[row[0]] = row[1] + " " + sorted(strings.Split(row[2], ", "))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics.md differs from /metrics (-driver +document):\n%s", diff)
	}
}

// everything is an engine that has a value for every metric.
type everything struct{}

func (everything) Stats() []backend.PoolStats {
	conditions := []volume.Condition{{Severity: volume.Degraded, Reason: "DirectIOOff", Message: "x"}}
	return []backend.PoolStats{{
		Pool: volume.Pool{Name: "default", Available: true}, Looked: time.Now(), Size: volume.GiB, Image: true, Conditions: conditions,
		Volumes: []backend.VolumeStats{{ID: "vol.a", Extents: 1, Attached: 1, Conditions: conditions}},
	}}
}

func engineMetrics(t *testing.T) map[string]string {
	t.Helper()
	families, err := metric.Gatherer(everything{}).Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		out[f.GetName()] = strings.ToLower(f.GetType().String()) + " " + sorted(labels)
	}
	return out
}

// labelsOf are the labels that the samples of a metric bear; le is Prometheus'
// own, for the buckets of a histogram.
func labelsOf(page, metric string) string {
	names := map[string]bool{}
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, metric+"{") && !strings.HasPrefix(line, metric+"_") {
			continue
		}
		for _, m := range labelName.FindAllStringSubmatch(line, -1) {
			names[m[1]] = true
		}
	}
	delete(names, "le")
	list := make([]string, 0, len(names))
	for name := range names {
		list = append(list, name)
	}
	return sorted(list)
}

func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ; ; time.Sleep(20 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil && ctx.Err() == nil {
			continue // CSI may be served a moment before HTTP
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", url, resp.Status, err)
		}
		return string(body)
	}
}
