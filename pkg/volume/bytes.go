package volume

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size in bytes. It is never negative in a valid object.
type Bytes int64

// Binary multiples.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40
)

// String prints a size for people: "10 GiB", "1.5 GiB", "300 MiB", "512 B".
func (b Bytes) String() string {
	for _, u := range []struct {
		size Bytes
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}} {
		if b >= u.size || b <= -u.size {
			s := strconv.FormatFloat(float64(b)/float64(u.size), 'f', 2, 64)
			s = strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
			return s + " " + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + " B"
}

// RoundUp is the smallest multiple of unit that is at least b. unit must be
// positive. A b so large that the multiple does not fit is rounded to the
// largest multiple that does.
func (b Bytes) RoundUp(unit Bytes) Bytes {
	if b > math.MaxInt64-unit+1 {
		return math.MaxInt64 / unit * unit
	}
	return (b + unit - 1) / unit * unit
}

// ParseBytes reads a size as Kubernetes writes it: a whole number of bytes, or
// one with the suffix Ki, Mi, Gi or Ti. Anything else is ErrInvalid.
func ParseBytes(s string) (Bytes, error) {
	digits, unit := s, Bytes(1)
	for suffix, u := range map[string]Bytes{"Ki": KiB, "Mi": MiB, "Gi": GiB, "Ti": TiB} {
		if d, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = d, u
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || Bytes(n) > math.MaxInt64/unit {
		return 0, fmt.Errorf("%w: size %q: want a whole number with no suffix or Ki, Mi, Gi, Ti, such as 20Gi", ErrInvalid, s)
	}
	return Bytes(n) * unit, nil
}
