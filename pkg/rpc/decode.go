package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// gRPC calls a request that cannot be decoded INTERNAL and writes that to the
// caller at once; no interceptor ever sees it. A string that is not UTF-8 is
// such a request, and it is the caller's mistake: INVALID_ARGUMENT. So requests
// are decoded into an envelope, which takes the error out of gRPC's hands.

// envelope is a request, or why there is none.
type envelope struct {
	req any
	err error
}

// envelopeCodec is gRPC's codec for protobuf, which never fails for an envelope.
type envelopeCodec struct {
	encoding.CodecV2
}

func newEnvelopeCodec() envelopeCodec { return envelopeCodec{encoding.GetCodecV2(proto.Name)} }

// Unmarshal implements encoding.CodecV2.
func (c envelopeCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if e, ok := v.(*envelope); ok {
		e.err = c.CodecV2.Unmarshal(data, e.req)
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// envelopeRegistrar registers services whose requests come in envelopes.
type envelopeRegistrar struct {
	next grpc.ServiceRegistrar
	// failed is told of each request that could not be decoded.
	failed func(c call)
}

// RegisterService implements grpc.ServiceRegistrar.
func (r envelopeRegistrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	mine := *desc
	mine.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		mine.Methods[i] = grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler:    r.handler("/"+desc.ServiceName+"/"+m.MethodName, m.Handler),
		}
	}
	r.next.RegisterService(&mine, impl)
}

func (r envelopeRegistrar) handler(method string, next grpc.MethodHandler) grpc.MethodHandler {
	return func(impl any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		start := time.Now()
		return next(impl, ctx, func(req any) error {
			e := &envelope{req: req}
			err := decode(e)
			if err == nil && e.err != nil {
				err = fmt.Errorf("%w: the request cannot be decoded: %w", volume.ErrInvalid, e.err)
			}
			if err == nil {
				return nil
			}
			err = toCallError(err, secrets{})
			r.failed(call{method: method, err: err, took: time.Since(start)})
			return err
		}, interceptor)
	}
}
