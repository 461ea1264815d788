package hostile

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// wire is a connection over which anything can be sent, also what no protobuf
// library would write.
type wire struct {
	conn    *grpc.ClientConn
	methods []protoreflect.MethodDescriptor
}

// callLimit is how long an attack may keep the driver busy.
const callLimit = 20 * time.Second

func dial(t *testing.T, socket string) *wire {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &wire{conn: conn, methods: methods()}
}

// methods are all RPCs of the CSI specification, those that the driver does not
// have as well. Only SnapshotMetadata is left out, which streams.
func methods() []protoreflect.MethodDescriptor {
	var found []protoreflect.MethodDescriptor
	services := csi.File_csi_proto.Services()
	for i := range services.Len() {
		all := services.Get(i).Methods()
		for j := range all.Len() {
			if m := all.Get(j); !m.IsStreamingServer() {
				found = append(found, m)
			}
		}
	}
	return found
}

func fullName(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// methodOf is the RPC that a request is for.
func (w *wire) methodOf(req proto.Message) protoreflect.MethodDescriptor {
	for _, m := range w.methods {
		if m.Input().FullName() == req.ProtoReflect().Descriptor().FullName() {
			return m
		}
	}
	panic(fmt.Sprintf("no RPC takes a %T", req))
}

// newMessage is an empty message of a type of the specification.
func newMessage(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return t.New().Interface()
}

// Go's protobuf refuses to write a string that is not UTF-8. In its place stands
// notText, which becomes badBytes on the wire.
const (
	notText  = "\uE0FFnot-text\uE0FF"
	badBytes = "\xff\xfe\xc0not-text\xed\xa0\x80"
)

// call sends a request and returns the answer.
func (w *wire) call(req proto.Message) (proto.Message, error) {
	raw, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("marshal the attack: %w", err)
	}
	m := w.methodOf(req)
	answer, err := w.send(fullName(m), bytes.ReplaceAll(raw, []byte(notText), []byte(badBytes)))
	if err != nil {
		return nil, err
	}
	resp := newMessage(m.Output())
	if err := proto.Unmarshal(answer, resp); err != nil {
		return nil, fmt.Errorf("the answer of %s cannot be decoded: %w", m.Name(), err)
	}
	return resp, nil
}

// send sends any bytes as a request.
func (w *wire) send(method string, raw []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	var answer []byte
	err := w.conn.Invoke(ctx, method, raw, &answer)
	return answer, err
}

// rawCodec passes bytes through.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }

func TestPlaceholderOfBadBytesHasTheirLength(t *testing.T) {
	if len(notText) != len(badBytes) || strings.ToValidUTF8(badBytes, "") == badBytes {
		t.Errorf("%d bytes stand for %d bytes", len(notText), len(badBytes))
	}
}
