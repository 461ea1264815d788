package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/cluster"
	"github.com/holdfast-csi/holdfast/pkg/rpc"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// reporter tells the administrator what no caller gets as an error: in the log,
// and, in a pod, as events of it.
type reporter struct {
	logger *slog.Logger
	events *cluster.Events // nil outside a pod
}

// newReporter is a reporter for the pod of a --pod flag; "" means none. A pod in
// which the API server cannot be found is served all the same, without events.
func newReporter(pod, node string, logger *slog.Logger) (*reporter, error) {
	r := &reporter{logger: logger}
	if pod == "" {
		return r, nil
	}
	client, err := connect(pod, node)
	if errors.Is(err, volume.ErrInvalid) {
		return nil, fmt.Errorf("--pod: %w", err)
	}
	if err != nil {
		logger.Warn("there will be no events", "error", err.Error())
		return r, nil
	}
	r.events = client.Events(cluster.EventsConfig{Redact: rpc.Redact, Logger: logger})
	return r, nil
}

// connect is a client for the pod of a --pod flag.
func connect(text, node string) (*cluster.Client, error) {
	pod, err := cluster.ParsePod(text)
	if err != nil {
		return nil, err
	}
	pod.UID, pod.Node = os.Getenv("POD_UID"), node
	return cluster.InCluster(pod)
}

// start begins to deliver events; stop delivers what is left and ends.
func (r *reporter) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { r.events.Run(ctx) })
	return func() {
		cancel()
		group.Wait()
	}
}

// notice passes on what the engine says.
func (r *reporter) notice(reason local.Reason, text string) {
	r.tell(reason.Warning(), string(reason), text)
}

// warn passes on what the driver itself says.
func (r *reporter) warn(reason cluster.Reason, text string) {
	r.tell(true, string(reason), text)
}

func (r *reporter) tell(warning bool, reason, text string) {
	r.tellOf(cluster.Pod{}, warning, reason, text)
}

// tellOf tells of a pod; the zero value is the driver's own.
func (r *reporter) tellOf(pod cluster.Pod, warning bool, reason, text string) {
	level := slog.LevelInfo
	if warning {
		level = slog.LevelWarn
	}
	args := []any{"reason", reason}
	if pod != (cluster.Pod{}) {
		args = append(args, "pod", pod.Namespace+"/"+pod.Name)
	}
	r.logger.Log(context.Background(), level, text, args...)
	r.events.Send(cluster.Event{About: pod, Warning: warning, Reason: reason, Text: text})
}
