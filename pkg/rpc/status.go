package rpc

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// codeTable is the only place where a sentinel becomes a gRPC code. The first
// entry that an error wraps decides.
func codeTable() []struct {
	sentinel error
	code     codes.Code
} {
	return []struct {
		sentinel error
		code     codes.Code
	}{
		{volume.ErrInvalid, codes.InvalidArgument},
		{volume.ErrNotFound, codes.NotFound},
		{volume.ErrExists, codes.AlreadyExists},
		{volume.ErrInUse, codes.FailedPrecondition},
		{volume.ErrPrecondition, codes.FailedPrecondition},
		{volume.ErrNoSpace, codes.ResourceExhausted},
		{volume.ErrOutOfRange, codes.OutOfRange},
		{volume.ErrUnavailable, codes.Unavailable},
		{volume.ErrBusy, codes.Aborted},
		{volume.ErrUnauthenticated, codes.Unauthenticated},
		{volume.ErrDenied, codes.PermissionDenied},
		{volume.ErrBadToken, codes.Aborted}, // CSI spec, ListVolumes Errors
		// Not DATA_LOSS, though the name would fit: no table of the CSI spec has that
		// code, and FAILED_PRECONDITION means exactly what the caller must know, that
		// the call will not succeed until somebody has looked at the volume. The log
		// line has level error, so that it is not lost among other preconditions.
		{volume.ErrDataLoss, codes.FailedPrecondition},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
	}
}

// Code is the gRPC code that err reaches the caller with. An error that already
// is a gRPC status, or wraps one, keeps its code; an error without a sentinel is
// INTERNAL.
func Code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		return s.Code()
	}
	for _, e := range codeTable() {
		if errors.Is(err, e.sentinel) {
			return e.code
		}
	}
	return codes.Internal
}

// maxErrorText bounds the text of a status in bytes. It travels in an HTTP/2
// header and ends up in a Kubernetes event, which has room for 1 KiB.
const maxErrorText = 2 << 10

// callError is an error on its way to the caller: the status that the caller
// sees, and the cause, which only decides how the call is logged.
type callError struct {
	status *status.Status
	cause  error
}

func (e *callError) Error() string              { return e.status.Message() }
func (e *callError) Unwrap() error              { return e.cause }
func (e *callError) GRPCStatus() *status.Status { return e.status }

// toCallError gives err its code and takes the secrets out of its text.
func toCallError(err error, secrets secrets) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		text = s.GRPCStatus().Message()
	}
	text = cut(secrets.scrub(strings.ToValidUTF8(text, "\uFFFD")), maxErrorText)
	return &callError{status: status.New(Code(err), text), cause: err}
}

// statusErrors makes every error of the calls behind it a status without
// details, and drops the response that came with it (CSI spec, Error Scheme).
func statusErrors(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, toCallError(err, secretsOf(req))
	}
	return resp, nil
}
