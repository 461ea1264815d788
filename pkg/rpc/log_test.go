package rpc

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestEachCallHasOneLineWithKnownKeys(t *testing.T) {
	d := newMemoryDriver()
	d.during = func(_ context.Context, req any) error {
		switch r := req.(type) {
		case *csi.NodePublishVolumeRequest:
			return volume.ErrPrecondition
		case *csi.NodeGetVolumeStatsRequest:
			return errors.New("statfs: input/output error")
		case *csi.CreateVolumeRequest:
			if r.GetName() == "corrupt" {
				return volume.ErrDataLoss
			}
		}
		return nil
	}
	r := serve(t, d, nil)
	ctx := t.Context()
	_, _ = r.controller.CreateVolume(ctx, create("pvc-1"))
	_, _ = r.controller.DeleteVolume(ctx, remove("pvc-1"))
	_, _ = r.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: "v", TargetPath: "/" + strings.Repeat("t", 1000)})
	_, _ = r.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: "v", VolumePath: "/p"})

	known := []string{"time", "level", "msg", KeyMethod, KeyVolume, KeySnapshot, KeyName, KeyTarget, KeyCode, KeyDuration, KeyError, KeyRequest, KeyResponse}
	for _, want := range []struct{ method, level, code, volume, target, name string }{
		{"Probe", "DEBUG", "OK", "", "", ""},
		{"CreateVolume", "INFO", "OK", volumeID("pvc-1"), "", "pvc-1"},
		{"DeleteVolume", "INFO", "OK", volumeID("pvc-1"), "", ""},
		{"NodePublishVolume", "WARN", "FailedPrecondition", "v", "/" + strings.Repeat("t", 255) + "... (1001 bytes)", ""},
		{"NodeGetVolumeStats", "ERROR", "Internal", "v", "/p", ""},
	} {
		lines := r.log.lines(t, want.method)
		if len(lines) != 1 {
			t.Errorf("%s has %d lines", want.method, len(lines))
			continue
		}
		line := lines[0]
		text := func(key string) string { s, _ := line[key].(string); return s }
		if text("level") != want.level || text(KeyCode) != want.code || text(KeyVolume) != want.volume ||
			text(KeyTarget) != want.target || text(KeyName) != want.name {
			t.Errorf("%s: %v", want.method, line)
		}
		for key := range line {
			if !slices.Contains(known, key) {
				t.Errorf("%s: unknown key %q", want.method, key)
			}
		}
	}

	_, _ = r.controller.CreateVolume(ctx, create("corrupt"))
	if lines := r.log.lines(t, "CreateVolume"); lines[1]["level"] != "ERROR" {
		t.Errorf("data loss is logged as %v", lines[1]["level"])
	}
}

func TestSnapshotCallsAreLoggedWithTheirIDs(t *testing.T) {
	for _, c := range []struct {
		req, resp any
		want      string
	}{
		{&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: "v"}, &csi.CreateSnapshotResponse{Snapshot: &csi.Snapshot{SnapshotId: "id"}}, "[name=s volume=v snapshot=id]"},
		{&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: "v"}, nil, "[name=s volume=v]"},
		{&csi.DeleteSnapshotRequest{SnapshotId: "id"}, nil, "[snapshot=id]"},
		{&csi.NodeStageVolumeRequest{VolumeId: "v", StagingTargetPath: "/s"}, nil, "[volume=v target=/s]"},
		{&csi.ProbeRequest{}, &csi.ProbeResponse{}, "[]"},
		{nil, nil, "[]"},
	} {
		if got := slog.AnyValue(subject(c.req, c.resp)).String(); got != c.want {
			t.Errorf("%T: got %s, want %s", c.req, got, c.want)
		}
	}
}

func TestMessagesAreShownAtTraceOnly(t *testing.T) {
	var b logBuffer
	l := &callLog{slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	l.log("call", call{method: "/csi.v1.Controller/CreateVolume", req: create("pvc-1")})
	if line := b.lines(t, "CreateVolume")[0]; line[KeyRequest] != nil {
		t.Errorf("got %v", line)
	}
}

// panicky is a log that panics.
type panicky struct{ slog.Handler }

func (panicky) Enabled(context.Context, slog.Level) bool  { return true }
func (panicky) Handle(context.Context, slog.Record) error { panic("log is broken") }

func TestLogThatPanicsDoesNotEndTheProcess(t *testing.T) {
	l := &callLog{slog.New(panicky{slog.DiscardHandler})}
	_, err := l.lastResort(t.Context(), create("v"), info("CreateVolume"), func(ctx context.Context, req any) (any, error) {
		return l.logCalls(ctx, req, info("CreateVolume"), func(context.Context, any) (any, error) { return "answer", nil })
	})
	if Code(err).String() != "Internal" || !strings.Contains(err.Error(), "log is broken") {
		t.Errorf("got %v", err)
	}
}

func info(method string) *grpc.UnaryServerInfo {
	return &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Controller/" + method}
}
