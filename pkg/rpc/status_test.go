package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestEverySentinelHasItsCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
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
		{volume.ErrBadToken, codes.Aborted},
		{volume.ErrDataLoss, codes.FailedPrecondition},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errors.New("mkfs.ext4: exit status 1"), codes.Internal},
		{status.Error(codes.Unauthenticated, "token expired"), codes.Unauthenticated},
		{errors.Join(errors.New("other"), volume.ErrNoSpace), codes.ResourceExhausted},
		// A pool that is away is away, even if a deadline is why it seems so.
		{fmt.Errorf("%w: %w", volume.ErrUnavailable, context.DeadlineExceeded), codes.Unavailable},
	} {
		wrapped := c.err
		if wrapped != nil {
			wrapped = fmt.Errorf("create volume: %w", fmt.Errorf("pool: %w", c.err))
		}
		for _, err := range []error{c.err, wrapped, toCallError(wrapped, secrets{}), toCallError(toCallError(wrapped, secrets{}), secrets{})} {
			if got := Code(err); got != c.want {
				t.Errorf("%v: got %v, want %v", err, got, c.want)
			}
			if err != nil && status.Code(toCallError(err, secrets{})) != c.want {
				t.Errorf("%v: the caller sees %v, want %v", err, status.Code(toCallError(err, secrets{})), c.want)
			}
		}
	}
}

func TestStatusOfAnotherServerLosesItsDetails(t *testing.T) {
	detailed, err := status.New(codes.NotFound, "gone").WithDetails(durationpb.New(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{detailed.Err(), fmt.Errorf("ask node: %w", detailed.Err())} {
		s := status.Convert(toCallError(err, secrets{}))
		if s.Code() != codes.NotFound || len(s.Details()) != 0 || !strings.Contains(s.Message(), "gone") {
			t.Errorf("got %v with details %v", s, s.Details())
		}
	}
}

func TestErrorTextIsShortAndUTF8(t *testing.T) {
	s := status.Convert(toCallError(errors.New("\xff"+strings.Repeat("x", 1<<20)), secrets{}))
	if len(s.Message()) > maxErrorText+100 || strings.Contains(s.Message(), "\xff") || !strings.Contains(s.Message(), "bytes)") {
		t.Errorf("%d bytes: %.100q", len(s.Message()), s.Message())
	}
}
