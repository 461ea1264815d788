package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// The limits in bytes of the CSI specification ("Size Limits", and the comments
// of the fields), and where we give more: kubelet's paths are longer than 128
// bytes, and two JWTs in volume_context are longer than 4 KiB.
const (
	maxText  = 128
	maxMap   = 4 << 10
	maxFlags = 4 << 10
	maxPath  = 4095 // PATH_MAX without its NUL
)

// validateRequests refuses what breaks the limits, before anything else looks at
// the request.
func validateRequests(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if msg, ok := req.(proto.Message); ok {
		if err := validate(msg); err != nil {
			return nil, err
		}
	}
	return next(ctx, req)
}

// validate is nil, or ErrInvalid with the first string of a request that breaks
// a limit. Ids and pagination tokens are not its business: one that is too long
// names nothing, which has another code.
func validate(msg proto.Message) error {
	var first error
	walkMessages(msg.ProtoReflect(), func(m protoreflect.Message) bool {
		m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			first = validateField(field, v)
			return first == nil
		})
		return first == nil
	})
	return first
}

// validateField checks one field of one message, but not the messages in it.
func validateField(field protoreflect.FieldDescriptor, v protoreflect.Value) error {
	limit := limitOf(field)
	total := 0
	var err error
	check := func(s string) bool {
		total += len(s)
		err = limit.check(s)
		return err == nil
	}
	switch {
	case field.IsMap():
		v.Map().Range(func(k protoreflect.MapKey, value protoreflect.Value) bool {
			ok := field.MapKey().Kind() != protoreflect.StringKind || check(k.String())
			if ok && field.MapValue().Kind() == protoreflect.StringKind {
				ok = check(value.String())
			}
			return ok
		})
	case field.Kind() != protoreflect.StringKind:
		return nil
	case field.IsList():
		for i := 0; i < v.List().Len() && check(v.List().Get(i).String()); i++ {
		}
	default:
		check(v.String())
	}
	if err == nil && limit.total > 0 && total > limit.total {
		err = fmt.Errorf("has %d bytes in all, the limit is %d", total, limit.total)
	}
	if err != nil {
		return fmt.Errorf("%w: field %s %w", volume.ErrInvalid, field.Name(), err)
	}
	return nil
}

// limits are the limits of a field; 0 means none.
type limits struct {
	each, total int // bytes
	banned      func(r rune) bool
}

func limitOf(field protoreflect.FieldDescriptor) limits {
	name := string(field.Name())
	switch {
	case isSecret(field), name == "volume_context":
		return limits{}
	case strings.HasSuffix(name, "_id"), strings.HasSuffix(name, "_ids"), name == "starting_token":
		return limits{}
	case strings.HasSuffix(name, "_path"):
		return limits{each: maxPath, banned: isNUL}
	case name == "mount_flags":
		return limits{total: maxFlags, banned: isBanned}
	case field.IsMap():
		return limits{total: maxMap}
	default:
		return limits{each: maxText, banned: isBanned}
	}
}

func (l limits) check(s string) error {
	if l.each > 0 && len(s) > l.each {
		return fmt.Errorf("has %d bytes, the limit is %d", len(s), l.each)
	}
	if !utf8.ValidString(s) {
		return errNotUTF8
	}
	if l.banned != nil {
		if i := strings.IndexFunc(s, l.banned); i >= 0 {
			r, _ := utf8.DecodeRuneInString(s[i:])
			return fmt.Errorf("has the control character %U at byte %d: leave it out", r, i)
		}
	}
	return nil
}

// isBanned says whether the CSI specification bans a character from names
// (CreateVolumeRequest.name).
func isBanned(r rune) bool {
	return r <= 0x08 || r == 0x0B || r == 0x0C || r >= 0x0E && r <= 0x1F || r >= 0x7F && r <= 0x9F
}

func isNUL(r rune) bool { return r == 0 }

var errNotUTF8 = errors.New("is not valid UTF-8")
