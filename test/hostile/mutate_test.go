package hostile

import (
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// mutator changes requests at random.
type mutator struct {
	rng *rand.Rand
	// words are the strings that it puts into requests.
	words []string
}

// mutate changes a few things in a request.
func (m *mutator) mutate(req proto.Message) {
	for range 1 + m.rng.IntN(3) {
		switch m.rng.IntN(8) {
		case 0:
			m.dropField(req.ProtoReflect())
		case 1, 2:
			m.changeNumber(req.ProtoReflect())
		default:
			if all := places(req.ProtoReflect()); len(all) > 0 {
				all[m.rng.IntN(len(all))].set(req.ProtoReflect(), m.word())
			}
		}
	}
}

// word is one of the words, most of the time as it is.
func (m *mutator) word() string {
	w := m.words[m.rng.IntN(len(m.words))]
	if len(w) > 10_000 && m.rng.IntN(20) > 0 {
		w = w[:100] // megabytes only now and then
	}
	switch at := m.rng.IntN(len(w) + 1); m.rng.IntN(6) {
	case 0:
		w = w[:at] + string(rune(m.rng.IntN(0x300))) + w[at:]
	case 1:
		w = w[:at]
	case 2:
		w = w[at:] + m.words[m.rng.IntN(len(m.words))]
	}
	return strings.ToValidUTF8(w, "?")
}

// field is a random field of a message, or of a message in it.
func (m *mutator) field(msg protoreflect.Message) (protoreflect.Message, protoreflect.FieldDescriptor) {
	fields := msg.Descriptor().Fields()
	if fields.Len() == 0 {
		return msg, nil
	}
	f := fields.Get(m.rng.IntN(fields.Len()))
	if f.Kind() == protoreflect.MessageKind && !f.IsList() && !f.IsMap() && msg.Has(f) && m.rng.IntN(2) == 0 {
		return m.field(msg.Mutable(f).Message())
	}
	return msg, f
}

func (m *mutator) dropField(msg protoreflect.Message) {
	if in, f := m.field(msg); f != nil {
		in.Clear(f)
	}
}

func (m *mutator) changeNumber(msg protoreflect.Message) {
	in, f := m.field(msg)
	if f == nil || f.IsList() || f.IsMap() {
		return
	}
	numbers := []int64{0, 1, -1, 7, 99, 4096, 4097, 1 << 20, 1 << 27, 1 << 29, 1 << 40, 1 << 62, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}
	n := numbers[m.rng.IntN(len(numbers))]
	switch f.Kind() {
	case protoreflect.Int64Kind:
		in.Set(f, protoreflect.ValueOfInt64(n))
	case protoreflect.Int32Kind:
		in.Set(f, protoreflect.ValueOfInt32(int32(n)))
	case protoreflect.EnumKind:
		in.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(n%12)))
	case protoreflect.BoolKind:
		in.Set(f, protoreflect.ValueOfBool(n%2 == 0))
	}
}

// flip changes a few bits of a message on the wire.
func (m *mutator) flip(raw []byte) {
	for range 1 + m.rng.IntN(3) {
		if len(raw) > 0 {
			raw[m.rng.IntN(len(raw))] ^= 1 << m.rng.IntN(8)
		}
	}
}
