package rpc

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The keys of the lines that this package writes. There are no others.
const (
	KeyMethod   = "method"   // CSI method, such as CreateVolume
	KeyVolume   = "volume"   // volume id
	KeySnapshot = "snapshot" // snapshot id
	KeyName     = "name"     // requested name
	KeyTarget   = "target"   // the path that the call is about
	KeyCode     = "code"     // gRPC code
	KeyDuration = "duration" // as the caller, or the operation, lived it
	KeyError    = "error"    // text of an error
	KeyStack    = "stack"    // of a panic
	KeyRequest  = "request"  // the message without secrets, at LevelTrace
	KeyResponse = "response" // the message without secrets, at LevelTrace
	KeyEndpoint = "endpoint" // socket or address
	KeyWaiting  = "waiting"  // the operations that a stop waits for
)

// LevelTrace adds the request and the response to the line of each call.
const LevelTrace = slog.LevelDebug - 4

const (
	maxLogText    = 256     // bytes of one string of a request
	maxLogMessage = 4 << 10 // bytes of a request or response
)

// callLog writes one line for each call.
type callLog struct {
	logger *slog.Logger
}

// call is one call, or one operation, that has ended.
type call struct {
	method    string // full gRPC method
	req, resp any
	err       error // a *callError, or nil
	took      time.Duration
}

// logCalls logs the calls behind it.
func (l *callLog) logCalls(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := next(ctx, req)
	l.log("call", call{info.FullMethod, req, resp, err, time.Since(start)})
	return resp, err
}

// log writes the line of c. A successful call that changes something is worth a
// line at info; one that only reads is not, for there are many a minute.
func (l *callLog) log(message string, c call) {
	level := c.level()
	ctx := context.Background()
	if !l.logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String(KeyMethod, shortMethod(c.method))}
	attrs = append(attrs, subject(c.req, c.resp)...)
	attrs = append(attrs, slog.String(KeyCode, Code(c.err).String()), slog.Duration(KeyDuration, c.took))
	if c.err != nil {
		attrs = append(attrs, slog.String(KeyError, c.err.Error()))
	}
	if p := (*panicError)(nil); errors.As(c.err, &p) {
		attrs = append(attrs, slog.String(KeyStack, p.stack))
	}
	if l.logger.Enabled(ctx, LevelTrace) {
		attrs = append(attrs, slog.String(KeyRequest, render(c.req)), slog.String(KeyResponse, render(c.resp)))
	}
	l.logger.LogAttrs(ctx, level, message, attrs...)
}

func (c call) level() slog.Level {
	switch code := Code(c.err); {
	case code == codes.Internal, code == codes.Unknown, code == codes.DataLoss, errors.Is(c.err, volume.ErrDataLoss):
		return slog.LevelError
	case code != codes.OK:
		return slog.LevelWarn
	}
	if _, changes := keysOf(c.req); changes {
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// subject says what a call is about.
func subject(req, resp any) []slog.Attr {
	volumeID := firstOf(idOfVolume(req), idOfVolume(resp))
	snapshotID := firstOf(idOfSnapshot(req), idOfSnapshot(resp))
	var attrs []slog.Attr
	for _, a := range []struct{ key, value string }{
		{KeyName, nameOf(req)},
		{KeyVolume, volumeID},
		{KeySnapshot, snapshotID},
		{KeyTarget, pathOf(req)},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.key, cut(Redact(a.value), maxLogText)))
		}
	}
	return attrs
}

func shortMethod(full string) string { return path.Base(full) }

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
