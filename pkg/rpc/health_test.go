package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func TestMetricsCountCallsByMethodAndCode(t *testing.T) {
	r := serve(t, newMemoryDriver(), nil)
	if _, err := r.controller.CreateVolume(t.Context(), create("pvc-1")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.controller.CreateVolume(t.Context(), create("\x00")); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	if _, err := r.controller.ListVolumes(t.Context(), &csi.ListVolumesRequest{}); status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	var b logBuffer
	text := get(t, NewHealth(HealthConfig{Metrics: r.metrics, Logger: b.logger()}), "/metrics")
	for _, want := range []string{
		`csi_plugin_operations_seconds_count{driver_name="csi.holdfast.dev",grpc_status_code="OK",method_name="/csi.v1.Controller/CreateVolume"} 1`,
		`csi_plugin_operations_seconds_count{driver_name="csi.holdfast.dev",grpc_status_code="InvalidArgument",method_name="/csi.v1.Controller/CreateVolume"} 1`,
		`csi_plugin_operations_seconds_count{driver_name="csi.holdfast.dev",grpc_status_code="Unimplemented",method_name="/csi.v1.Controller/ListVolumes"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestMetricsOfOthersAreShownToo(t *testing.T) {
	registry := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_pool_available_bytes"})
	registry.MustRegister(gauge)
	gauge.Set(42)
	h := NewHealth(HealthConfig{Metrics: NewMetrics("csi.holdfast.dev", registry), Logger: slog.New(slog.DiscardHandler)})
	if text := get(t, h, "/metrics"); !strings.Contains(text, "holdfast_pool_available_bytes 42") || !strings.Contains(text, "process_start_time_seconds") {
		t.Errorf("got\n%s", text)
	}
}

// get runs h on a free port and gets one path from it.
func get(t *testing.T, h *Health, path string) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.endpoint = free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var body []byte
	eventually(t, "an answer from "+path, func() bool {
		resp, err := client.Get("http://" + h.endpoint + path)
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		body, err = io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	return string(body)
}

func TestHealthzSpeaksOfTheProcess(t *testing.T) {
	h := NewHealth(HealthConfig{Metrics: NewMetrics("csi.holdfast.dev"), Logger: slog.New(slog.DiscardHandler)})
	if text := get(t, h, "/healthz"); text != "ok\n" {
		t.Errorf("got %q", text)
	}
}

func TestReadyzSaysWhyNot(t *testing.T) {
	why := errors.New("no volume is mounted at /pools, eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJlLXRoYXQtaXMtc2VjcmV0")
	cfg := HealthConfig{Metrics: NewMetrics("csi.holdfast.dev"), Logger: slog.New(slog.DiscardHandler), Ready: func() error { return why }}
	h := NewHealth(cfg)
	ask := func(path string) *httptest.ResponseRecorder {
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return answer
	}
	got := ask("/readyz")
	if got.Code != http.StatusServiceUnavailable || !strings.Contains(got.Body.String(), "no volume is mounted at /pools") {
		t.Errorf("%d: %q", got.Code, got.Body)
	}
	if strings.Contains(got.Body.String(), "eyJ") {
		t.Errorf("a token got out: %q", got.Body)
	}
	if got := ask("/healthz"); got.Code != http.StatusOK {
		t.Errorf("a driver that is not ready is not alive: %d", got.Code)
	}
	why = nil
	if got := ask("/readyz"); got.Code != http.StatusOK || got.Body.String() != "ok\n" {
		t.Errorf("%d: %q", got.Code, got.Body)
	}
	cfg.Ready = nil
	h = NewHealth(cfg)
	if got := ask("/readyz"); got.Code != http.StatusOK {
		t.Errorf("nobody says that it is not ready: %d", got.Code)
	}
}

func TestAddressInUseIsAnErrorThatNamesTheFlag(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	h := NewHealth(HealthConfig{Endpoint: taken.Addr().String(), Metrics: NewMetrics("csi.holdfast.dev"), Logger: slog.New(slog.DiscardHandler)})
	if err := h.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--http-endpoint") {
		t.Errorf("got %v", err)
	}
}
