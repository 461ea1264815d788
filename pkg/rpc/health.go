package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// HealthConfig is what a Health needs.
type HealthConfig struct {
	// Endpoint is a TCP address such as ":9808".
	Endpoint string
	Metrics  *Metrics
	Logger   *slog.Logger
	// Ready says why the driver cannot be used yet, nil if it can. It is called
	// for each request and must answer from memory. nil means always ready.
	Ready func() error
}

// Health serves /metrics, /healthz and /readyz over HTTP. /healthz speaks of the
// process alone: restarting a driver brings no lost disk back, so a pool that is
// away must not fail a liveness probe. /readyz answers 503 and the reason while
// the driver cannot be used.
type Health struct {
	endpoint string
	logger   *slog.Logger
	mux      *http.ServeMux
}

// NewHealth makes a Health that does not listen yet.
func NewHealth(cfg HealthConfig) *Health {
	h := &Health{endpoint: cfg.Endpoint, logger: slog.New(RedactHandler(cfg.Logger.Handler())), mux: http.NewServeMux()}
	h.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	h.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if cfg.Ready != nil {
			if err := cfg.Ready(); err != nil {
				http.Error(w, Redact(err.Error()), http.StatusServiceUnavailable)
				return
			}
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	h.mux.Handle("GET /metrics", cfg.Metrics.Handler())
	return h
}

// ServeHTTP answers a request as the endpoint does.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// Run listens and serves until ctx ends, which is no error.
func (h *Health) Run(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", h.endpoint)
	if err != nil {
		return fmt.Errorf("listen for health and metrics on %s (--http-endpoint): %w", h.endpoint, err)
	}
	h.logger.Info("serving health and metrics", KeyEndpoint, l.Addr().String())
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      30 * time.Second,
		ErrorLog:          slog.NewLogLogger(h.logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve health and metrics on %s: %w", h.endpoint, err)
	case <-ctx.Done():
	}
	soon, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(soon); err != nil {
		// A scrape that takes that long is cut off: metrics are no reason to stay.
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health and metrics on %s: %w", h.endpoint, err)
	}
	return nil
}
