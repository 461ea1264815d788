package volume

import "fmt"

// Alignment is what every size is a multiple of: the largest sector size.
const Alignment = 4 * KiB

// DefaultSize is the size of a volume whose caller named none.
const DefaultSize = GiB

// MaxSize is the largest volume: what ext4 with 4 KiB blocks and no special
// features is commonly supported up to.
const MaxSize = 64 * TiB

// MinSize is the smallest volume of this format.
func (f Format) MinSize() Bytes {
	switch {
	case f.Mode == ModeBlock:
		return MiB
	case f.FSType == XFS:
		return 300 * MiB // mkfs.xfs refuses less
	default:
		return 16 * MiB // leaves ext4 room for a journal
	}
}

// Fit chooses the size of a volume: the smallest aligned size that is at least
// required, at least floor (what the filesystem or the source needs), and at
// most limit (0 means no limit). A zero required means DefaultSize. If there is
// no such size it is ErrOutOfRange, or ErrInvalid for a negative number.
func Fit(required, limit, floor Bytes) (Bytes, error) {
	if required < 0 || limit < 0 {
		return 0, fmt.Errorf("%w: a size cannot be negative: required %d, limit %d", ErrInvalid, required, limit)
	}
	if limit > 0 && limit < required {
		return 0, fmt.Errorf("%w: required size %d is above the limit %d", ErrInvalid, required, limit)
	}
	want := required
	if want == 0 {
		want = DefaultSize
		if limit > 0 && limit < want {
			want = limit / Alignment * Alignment
		}
	}
	size := max(want, floor).RoundUp(Alignment)
	if limit > 0 && size > limit {
		return 0, fmt.Errorf("%w: needs at least %s (%d bytes), the limit is %d bytes", ErrOutOfRange, size, size, limit)
	}
	if size > MaxSize {
		return 0, fmt.Errorf("%w: %s is more than the largest volume, %s", ErrOutOfRange, size, MaxSize)
	}
	return size, nil
}
