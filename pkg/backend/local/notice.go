package local

import "fmt"

// Reason says in one word what a notice is about. It is the reason of a
// Kubernetes event: CamelCase, and one of a fixed list, so that it can be looked
// for. docs/reference/events.md says what to do about each.
type Reason string

// The reasons of notices.
const (
	PoolMissing      Reason = "PoolMissing"
	PoolBack         Reason = "PoolBack"
	PoolSlow         Reason = "PoolSlow"
	PoolUnmeasured   Reason = "PoolUnmeasured"
	PoolSizeKept     Reason = "PoolSizeKept"
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
		PoolMissing, PoolBack, PoolSlow, PoolUnmeasured, PoolSizeKept, ImageReallocated, DirectIOOff,
		ObjectDamaged, OrphanFound, CleanupFailed, BallastMissing, FreezeThawed, ThawFailed,
	}
}

// Warning says whether something is wrong, or was.
func (r Reason) Warning() bool { return r != PoolBack }

// notice tells the administrator.
func (b *Backend) notice(reason Reason, format string, args ...any) {
	b.cfg.Notice(reason, fmt.Sprintf(format, args...))
}
