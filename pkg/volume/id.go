package volume

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// MaxIDLen is the longest ID in bytes (CSI spec, "Size Limits").
const MaxIDLen = 128

// Kind says what an ID names.
type Kind string

// The kinds of object that have an ID.
const (
	KindVolume   Kind = "vol"
	KindSnapshot Kind = "snap"
)

// PoolID identifies a pool for ever, whatever its path and the name of its
// node: 16 characters of [0-9a-f], drawn at random when the pool is made.
type PoolID string

const poolIDLen = 16

// NewPoolID draws a new random PoolID.
func NewPoolID() PoolID {
	var b [poolIDLen / 2]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // documented never to happen (crypto/rand.Read)
	}
	return PoolID(hex.EncodeToString(b[:]))
}

// ParsePoolID accepts exactly what NewPoolID makes, else ErrInvalid.
func ParsePoolID(s string) (PoolID, error) {
	if len(s) != poolIDLen || !isLowerHex(s) {
		return "", fmt.Errorf("%w: pool id must be %d characters of [0-9a-f]", ErrInvalid, poolIDLen)
	}
	return PoolID(s), nil
}

// ID identifies a volume or a snapshot: "<kind>.<pool id>.<hash of the
// requested name>", for instance
// "vol.0f3a91c2d4e5b677.9c56cc51b374c3ba189210d5b6d4bf57". It is safe as a file
// name and as a Kubernetes volume handle. The zero value names nothing.
type ID string

// hashLen is the length in characters of the hash of a name: 128 bits.
const hashLen = 32

// NewID is the ID of the object of this kind that was requested under name in
// this pool. The same arguments always make the same ID, which is what makes
// creation idempotent without a journal of names.
func NewID(kind Kind, pool PoolID, name string) ID {
	return ID(string(kind) + "." + string(pool) + "." + HashName(name))
}

// HashName is the last part of the ID of an object requested under name:
// 32 characters of [0-9a-f].
func HashName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])[:hashLen]
}

// ParseID accepts exactly what NewID makes for this kind. Anything else is
// ErrNotFound: an id that this driver cannot have made names nothing.
func ParseID(kind Kind, s string) (ID, error) {
	if len(s) > MaxIDLen {
		return "", fmt.Errorf("%w: id of %d bytes is longer than any %s has", ErrNotFound, len(s), kind)
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[0] != string(kind) ||
		len(parts[1]) != poolIDLen || !isLowerHex(parts[1]) ||
		len(parts[2]) != hashLen || !isLowerHex(parts[2]) {
		return "", fmt.Errorf("%w: %q is not the id of a %s of this driver", ErrNotFound, s, kind)
	}
	return ID(s), nil
}

// Kind is the kind of object that id names, "" for the zero ID.
func (id ID) Kind() Kind { return Kind(id.part(0)) }

// Pool is the pool that holds the object, "" for the zero ID.
func (id ID) Pool() PoolID { return PoolID(id.part(1)) }

// Hash is HashName of the requested name, "" for the zero ID.
func (id ID) Hash() string { return id.part(2) }

func (id ID) part(i int) string {
	parts := strings.Split(string(id), ".")
	if len(parts) != 3 {
		return ""
	}
	return parts[i]
}

func isLowerHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}
