package rpc

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// identityService is the prefix of the calls that say what the driver is and how
// it is, which it must be able to say at any time.
const identityService = "/csi.v1.Identity/"

// gated refuses, as ErrUnavailable, everything but Identity while closed gives a
// reason.
func gated(closed func() error) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if closed == nil || strings.HasPrefix(info.FullMethod, identityService) {
			return next(ctx, req)
		}
		if err := closed(); err != nil {
			// As text only: the code is that of ErrUnavailable, whatever the reason wraps.
			return nil, fmt.Errorf("%w: %s is not served: %s", volume.ErrUnavailable, shortMethod(info.FullMethod), err.Error())
		}
		return next(ctx, req)
	}
}
