package local

import (
	"fmt"
	"regexp"
	"time"
)

// Reason says in one word what a notice is about. It is the reason of a
// Kubernetes event: CamelCase, and one of a fixed list, so that it can be looked
// for. docs/reference/events.md says what to do about each.
type Reason string

// The reasons of notices.
const (
	PoolMissing      Reason = "PoolMissing"
	PoolBack         Reason = "PoolBack"
	PoolNew          Reason = "PoolNew"
	PoolSlow         Reason = "PoolSlow"
	PoolUnmeasured   Reason = "PoolUnmeasured"
	PoolSizeKept     Reason = "PoolSizeKept"
	PoolGrown        Reason = "PoolGrown"
	ImageReallocated Reason = "ImageReallocated"
	DirectIOOff      Reason = "DirectIOOff"
	ObjectDamaged    Reason = "ObjectDamaged"
	OrphanFound      Reason = "OrphanFound"
	CleanupFailed    Reason = "CleanupFailed"
	BallastMissing   Reason = "BallastMissing"
	FreezeThawed     Reason = "FreezeThawed"
	ThawFailed       Reason = "ThawFailed"
)

// Reasons are all reasons that a notice can have.
func Reasons() []Reason {
	return []Reason{
		PoolMissing, PoolBack, PoolNew, PoolSlow, PoolUnmeasured, PoolSizeKept, PoolGrown, ImageReallocated, DirectIOOff,
		ObjectDamaged, OrphanFound, CleanupFailed, BallastMissing, FreezeThawed, ThawFailed,
	}
}

// Warning says whether something is wrong, or was.
func (r Reason) Warning() bool { return r != PoolBack && r != PoolGrown }

// notice tells the administrator.
func (b *Backend) notice(reason Reason, format string, args ...any) {
	b.cfg.Notice(reason, fmt.Sprintf(format, args...))
}

// remindAfter is when trouble that goes on is told again.
const remindAfter = 10 * time.Minute

// trouble is what was told of an error that is met again and again; the zero value
// is none. Every new text is a new event, so a text that differs only in its
// numbers, such as the free space of a disk, is no news.
type trouble struct {
	kind string
	told time.Time
}

var numbers = regexp.MustCompile(`[0-9][0-9.]*( ([KMGT]i)?B|[hmsµn]+)?`)

// isNews says whether err is to be told now, and remembers that it was.
func (t *trouble) isNews(err error, now time.Time) bool {
	kind := numbers.ReplaceAllString(err.Error(), "")
	if t.kind == kind && now.Sub(t.told) < remindAfter {
		return false
	}
	t.kind, t.told = kind, now
	return true
}
