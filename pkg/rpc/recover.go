package rpc

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxStack bounds a stack in the log, in bytes.
const maxStack = 16 << 10

// panicError is a panic that was caught. Its text and its stack hold no secret
// of the request.
type panicError struct {
	text  string
	stack string
}

func (e *panicError) Error() string { return e.text }

// GRPCStatus makes it INTERNAL even where no interceptor is left to say so.
func (e *panicError) GRPCStatus() *status.Status { return status.New(codes.Internal, e.text) }

// guard calls call and turns a panic of it into a *panicError.
func guard(req any, call func() (any, error)) (resp any, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		value := recover()
		secrets := secretsOf(req)
		resp, err = nil, &panicError{
			text: cut(secrets.scrub(fmt.Sprintf("the driver has a bug, this call panicked: %v (the stack is in the driver's log; please report it)",
				value)), maxErrorText),
			stack: cut(secrets.scrub(string(debug.Stack())), maxStack),
		}
	}()
	resp, err = call()
	returned = true
	return resp, err
}

// recoverPanics turns a panic of the calls behind it into an error.
func recoverPanics(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return guard(req, func() (any, error) { return next(ctx, req) })
}

// lastResort catches what panics in the interceptors themselves.
func (l *callLog) lastResort(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := guard(req, func() (any, error) { return next(ctx, req) })
	// A panic of the service comes wrapped in a status and has been logged.
	if p, ok := err.(*panicError); ok {
		// The panic may have come from the log; one that comes again must not
		// replace the answer.
		_, _ = guard(req, func() (any, error) {
			l.logger.Error("call panicked", KeyMethod, shortMethod(info.FullMethod), KeyError, p.text, KeyStack, p.stack)
			return nil, nil
		})
	}
	return resp, err
}
