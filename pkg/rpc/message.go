package rpc

import (
	"google.golang.org/protobuf/reflect/protoreflect"
)

// stringField is one string of a message.
type stringField struct {
	// field is the field that holds it: a string, a list of strings, or a map.
	field protoreflect.FieldDescriptor
	// key is the key under which it is found, "" outside a map.
	key string
	// isKey says that value is itself the key of a map entry.
	isKey bool
	value string
}

// walkStrings calls visit with every string in a message and in the messages in
// it.
func walkStrings(m protoreflect.Message, visit func(stringField)) {
	rewriteStrings(m, func(s stringField) string {
		visit(s)
		return s.value
	})
}

// rewriteStrings replaces every string in a message, and in the messages in it,
// by what replace makes of it. A string that stays the same is not written, and
// the keys of maps are never written.
func rewriteStrings(m protoreflect.Message, replace func(stringField) string) {
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			rewriteMap(field, v.Map(), replace)
		case field.IsList():
			rewriteList(field, v.List(), replace)
		case field.Kind() == protoreflect.StringKind:
			old := v.String()
			if s := replace(stringField{field: field, value: old}); s != old {
				m.Set(field, protoreflect.ValueOfString(s))
			}
		case field.Kind() == protoreflect.MessageKind:
			rewriteStrings(v.Message(), replace)
		}
		return true
	})
}

func rewriteList(field protoreflect.FieldDescriptor, list protoreflect.List, replace func(stringField) string) {
	for i := range list.Len() {
		switch field.Kind() {
		case protoreflect.StringKind:
			old := list.Get(i).String()
			if s := replace(stringField{field: field, value: old}); s != old {
				list.Set(i, protoreflect.ValueOfString(s))
			}
		case protoreflect.MessageKind:
			rewriteStrings(list.Get(i).Message(), replace)
		}
	}
}

func rewriteMap(field protoreflect.FieldDescriptor, m protoreflect.Map, replace func(stringField) string) {
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		key := k.String()
		replace(stringField{field: field, value: key, isKey: true})
		switch field.MapValue().Kind() {
		case protoreflect.StringKind:
			old := v.String()
			if s := replace(stringField{field: field, key: key, value: old}); s != old {
				m.Set(k, protoreflect.ValueOfString(s))
			}
		case protoreflect.MessageKind:
			rewriteStrings(v.Message(), replace)
		}
		return true
	})
}

// walkMessages calls visit with a message and every message in it, until visit
// says false.
func walkMessages(m protoreflect.Message, visit func(protoreflect.Message) bool) bool {
	more := visit(m)
	if !more {
		return false
	}
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Kind() == protoreflect.MessageKind {
				v.Map().Range(func(_ protoreflect.MapKey, value protoreflect.Value) bool {
					more = walkMessages(value.Message(), visit)
					return more
				})
			}
		case field.Kind() != protoreflect.MessageKind:
		case field.IsList():
			for i := 0; more && i < v.List().Len(); i++ {
				more = walkMessages(v.List().Get(i).Message(), visit)
			}
		default:
			more = walkMessages(v.Message(), visit)
		}
		return more
	})
	return more
}
