package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/cluster"
	osexec "github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/controller"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/identity"
	"github.com/holdfast-csi/holdfast/pkg/intake"
	"github.com/holdfast-csi/holdfast/pkg/metric"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/node"
	"github.com/holdfast-csi/holdfast/pkg/rpc"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// runServe serves CSI until ctx ends, then drains. Volumes stay mounted.
func runServe(ctx context.Context, args []string, _ io.Writer) error {
	var o options
	fs := o.flags()
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%w: unexpected argument %q", volume.ErrInvalid, fs.Arg(0))
	}
	if o.driverName == identityDriverName {
		// The name decides; what says otherwise aloud is a mistake.
		if fs.Changed("mode") && o.mode != modeIdentity {
			return fmt.Errorf("%w: --driver-name=%s is that of --mode=%s, and --mode=%s is given: leave one of them out", volume.ErrInvalid, identityDriverName, modeIdentity, o.mode)
		}
		o.mode = modeIdentity
	}
	if o.mode != modeAll && o.mode != modeIdentity {
		return fmt.Errorf("%w: --mode=%s: this version has the modes %s and %s", volume.ErrInvalid, o.mode, modeAll, modeIdentity)
	}
	if o.mode == modeIdentity {
		if err := checkIdentity(o, fs.Changed); err != nil {
			return err
		}
	}
	if o.nodeID == "" {
		return fmt.Errorf("%w: --node-id is empty and the machine has no name", volume.ErrInvalid)
	}
	logger := newLogger(o.verbosity)
	logger.Info("starting", "version", version, "node", o.nodeID)
	report, err := newReporter(o.pod, o.nodeID, logger)
	if err != nil {
		return err
	}
	// After the last notice.
	defer report.start()()
	if o.mode == modeIdentity {
		return serveIdentity(ctx, o, report)
	}
	if o.sources != "" {
		return fmt.Errorf("%w: --identity-sources is for --mode=%s", volume.ErrInvalid, modeIdentity)
	}
	hook := failpoints()
	engine, err := newEngine(o, hook, report)
	if err != nil {
		return err
	}
	return errors.Join(serve(ctx, o, engine, hook, report), engine.Close())
}

// programGrace is how long a stop waits for a check or a resize of a filesystem,
// which nobody may break off. In a container, whose end is theirs, the pod's
// terminationGracePeriodSeconds must allow for it.
const programGrace = 10 * time.Minute

func drainPrograms(runner *osexec.Exec) error {
	ctx, cancel := context.WithTimeout(context.Background(), programGrace)
	defer cancel()
	return runner.Drain(ctx)
}

func newLogger(verbosity int) *slog.Logger {
	level := slog.LevelInfo
	switch {
	case verbosity > 1:
		level = rpc.LevelTrace
	case verbosity > 0:
		level = slog.LevelDebug
	}
	// The libraries speak klog, whose levels mean something else: they are heard
	// when everything is asked for.
	libraries := slog.LevelInfo
	if level == rpc.LevelTrace {
		libraries = level
	}
	klog.SetSlogLogger(loggerFrom(libraries))
	return loggerFrom(level)
}

// loggerFrom is a logger for what has this level at least.
func loggerFrom(level slog.Level) *slog.Logger {
	return slog.New(rpc.RedactHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
}

func newEngine(o options, hook fault.Hook, report *reporter) (*local.Backend, error) {
	cfg, err := o.pools.parse()
	if err != nil {
		return nil, err
	}
	cfg.Runner = osexec.New()
	cfg.FreezeTimeout = o.freezeTimeout
	cfg.Overcommit = o.overcommit
	cfg.TrimInterval = o.trimInterval
	cfg.Notice = report.notice
	cfg.Fault = hook
	return local.New(cfg)
}

// serve runs the socket, the engine's background work and the HTTP endpoint. The
// socket answers Probe with "not ready" while the pools are being opened, and for
// ever if the mounts are not what --require-shared-mounts asks for: then the pools
// are not opened at all.
func serve(ctx context.Context, o options, engine *local.Backend, hook fault.Hook, report *reporter) error {
	logger := report.logger
	ready := &readiness{}
	if o.requireShared {
		if ready.unfit = checkShared(o); ready.unfit != nil {
			report.warn(cluster.MountNotShared, ready.unfit.Error())
		}
	}
	metrics := rpc.NewMetrics(o.driverName, metric.Gatherer(engine))
	ids, err := identity.New(identity.Config{
		DriverName: o.driverName, Version: version, Ready: ready.ok, Capabilities: engine.Capabilities(),
	})
	if err != nil {
		return err
	}
	runner := osexec.New()
	kubelet, err := mount.OpenRoot(o.kubeletDir)
	if err != nil {
		return fmt.Errorf("--kubelet-dir: %w", err)
	}
	defer kubelet.Close()
	nodes := node.New(node.Config{
		NodeID: o.nodeID, Kubelet: kubelet, Backend: engine, Runner: runner, Ready: ready.ok, Fault: hook,
	})
	controllers := controller.New(controller.Config{
		Backend: engine, NodeID: o.nodeID,
		Warn: func(ctx context.Context, msg string, args ...any) { logger.WarnContext(ctx, msg, args...) },
	})
	server, err := rpc.New(rpc.Config{Endpoint: o.endpoint, Logger: logger, Metrics: metrics, Gate: ready.gate, Repeats: nodes.Repeats}, func(r grpc.ServiceRegistrar) {
		csi.RegisterIdentityServer(r, ids)
		csi.RegisterControllerServer(r, controllers)
		csi.RegisterNodeServer(r, nodes)
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var group sync.WaitGroup
	if ready.gate() == nil {
		group.Go(func() {
			if err := engine.Start(ctx); err != nil {
				return // stopping already
			}
			for _, p := range engine.Pools() {
				logger.Info("pool", "name", p.Name, "id", string(p.ID), "available", p.Available)
			}
			ready.started.Store(true)
			engine.Run(ctx)
		})
		imports := importer{engine: engine, driverName: o.driverName, ready: ready.err}
		importServer := intake.Server{StateDir: o.pools.stateDir, Handle: imports.handle, Warn: func(err error) { logger.Warn("nobody can import now", "error", err.Error()) }}
		group.Go(func() { importServer.Run(ctx) })
	}
	if o.httpEndpoint != "" {
		health := rpc.NewHealth(rpc.HealthConfig{Endpoint: o.httpEndpoint, Metrics: metrics, Logger: logger, Ready: ready.err})
		group.Go(func() {
			if err := health.Run(ctx); err != nil {
				stop(err)
			}
		})
	}
	err = server.Run(ctx)
	stop(err)
	group.Wait()
	err = errors.Join(err, drainPrograms(runner))
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}
