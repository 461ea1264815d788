// Package secret is a text that must not be seen: a token, a password, a key.
//
// It promises that a Text prints as *** wherever it goes: with every verb of fmt, in
// JSON and any other encoding of text, in a log, inside of another value, and also
// in a field that fmt may not ask, because it is not exported. The text itself comes
// out of Reveal and nowhere else, so that a search for that word finds every place
// that has it in the clear.
//
// It does not protect the memory of the process: who can read that has the text.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"unique"
)

// Mark stands where a Text would be.
const Mark = "***"

// Text is a text that prints as Mark. The zero value is the empty one, and prints
// as Mark too.
type Text struct {
	// A pointer, since fmt prints a field that is not exported without asking its
	// methods, and of a pointer inside of another value it prints the address alone.
	value *string
}

// New is a Text.
func New(s string) Text { return Text{&s} }

// Reveal is the text in the clear.
func (t Text) Reveal() string {
	if t.value == nil {
		return ""
	}
	return *t.value
}

// Len is the length in bytes.
func (t Text) Len() int { return len(t.Reveal()) }

// IsEmpty says whether there is no text.
func (t Text) IsEmpty() bool { return t.Len() == 0 }

// Equal says whether two texts are the same. The time that it takes tells nothing
// of where they differ.
func (t Text) Equal(u Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(u.Reveal())) == 1
}

// Sum identifies a text without having it: two of them are == if the texts are the
// same. The zero value is that of no text.
type Sum struct {
	// A handle is a pointer, for the same reason as that of Text. Not one to an array:
	// fmt follows that when it does not know a verb.
	value unique.Handle[string]
}

// Sum is made of the SHA-256 of the text. It is for comparison in memory: a text that
// can be guessed can be found by its SHA-256, so a Sum prints as Mark, like a Text.
func (t Text) Sum() Sum {
	sum := sha256.Sum256([]byte(t.Reveal()))
	return Sum{unique.Make(string(sum[:]))}
}

// String implements fmt.Stringer.
func (Text) String() string { return Mark }

// GoString implements fmt.GoStringer.
func (Text) GoString() string { return Mark }

// Format implements fmt.Formatter, for the verbs that would not ask String.
func (Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mark) }

// MarshalText implements encoding.TextMarshaler, and with it JSON, YAML and XML.
func (Text) MarshalText() ([]byte, error) { return []byte(Mark), nil }

// LogValue implements slog.LogValuer.
func (Text) LogValue() slog.Value { return slog.StringValue(Mark) }

// String shows nothing of the sum.
func (Sum) String() string { return Mark }

// GoString shows nothing of the sum.
func (Sum) GoString() string { return Mark }

// Format shows nothing of the sum.
func (Sum) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mark) }

// MarshalText shows nothing of the sum.
func (Sum) MarshalText() ([]byte, error) { return []byte(Mark), nil }

// LogValue shows nothing of the sum.
func (Sum) LogValue() slog.Value { return slog.StringValue(Mark) }
