package rpc

import (
	"context"
	"net/http"
	"time"

	"github.com/kubernetes-csi/csi-lib-utils/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
)

// Metrics counts the calls of a driver: csi_plugin_operations_seconds, a
// histogram by driver, method and code, under the names that dashboards for CSI
// drivers know (csi-lib-utils/metrics). Its labels hold nothing of a request.
type Metrics struct {
	manager metrics.CSIMetricsManager
}

// NewMetrics are the metrics of a driver, shown together with those that more
// gathers. None of more may have process_start_time_seconds, which is already
// there.
func NewMetrics(driverName string, more ...prometheus.Gatherer) *Metrics {
	m := metrics.NewCSIMetricsManagerForPlugin(driverName)
	for _, g := range more {
		m = m.WithAdditionalRegistry(g)
	}
	return &Metrics{m}
}

// Handler answers with all metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	m.manager.RegisterToServer(mux, "/")
	return mux
}

func (m *Metrics) record(method string, err error, took time.Duration) {
	if m != nil {
		m.manager.RecordMetrics(method, err, took)
	}
}

// recordMetrics times the calls behind it.
func (m *Metrics) recordMetrics(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := next(ctx, req)
	m.record(info.FullMethod, err, time.Since(start))
	return resp, err
}
