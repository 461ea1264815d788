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
	FilesystemKept   Reason = "FilesystemKept"
	ImageReallocated Reason = "ImageReallocated"
	DirectIOOff      Reason = "DirectIOOff"
	ObjectDamaged    Reason = "ObjectDamaged"
	OrphanFound      Reason = "OrphanFound"
	CleanupFailed    Reason = "CleanupFailed"
	BallastMissing   Reason = "BallastMissing"
	FreezeThawed     Reason = "FreezeThawed"
	ThawFailed       Reason = "ThawFailed"
	PromisesStopped  Reason = "PromisesStopped"
	PromisesAgain    Reason = "PromisesAgain"
	GuardFroze       Reason = "GuardFroze"
	GuardThawed      Reason = "GuardThawed"
	GuardFailed      Reason = "GuardFailed"
)

// The reasons of what a look at the machine finds; those of above are used again
// where they fit. They are the reasons of conditions too.
const (
	PoolFailed         Reason = "PoolFailed"
	PoolSilent         Reason = "PoolSilent"
	PoolNearlyFull     Reason = "PoolNearlyFull"
	PromiseAtRisk      Reason = "PromiseAtRisk"
	ProfileUnsafe      Reason = "ProfileUnsafe"
	DiskErrors         Reason = "DiskErrors"
	PoolImageMissing   Reason = "PoolImageMissing"
	ImagePunched       Reason = "ImagePunched"
	ImageMissing       Reason = "ImageMissing"
	ImageTooShort      Reason = "ImageTooShort"
	ImageUnreadable    Reason = "ImageUnreadable"
	AttachedTwice      Reason = "AttachedTwice"
	DeviceTooSmall     Reason = "DeviceTooSmall"
	FilesystemShutDown Reason = "FilesystemShutDown"
	FilesystemReadOnly Reason = "FilesystemReadOnly"
	FilesystemErrors   Reason = "FilesystemErrors"
	// Healed: one of these is over.
	Healed Reason = "Healed"
)

// PoolConditions are the reasons that a condition of a pool can have.
func PoolConditions() []Reason {
	return []Reason{
		PoolMissing, PoolFailed, PoolSilent, GuardFroze, PoolNearlyFull, PromiseAtRisk, PoolUnmeasured, ProfileUnsafe, DiskErrors,
		PoolImageMissing, ImagePunched, DirectIOOff,
	}
}

// VolumeConditions are the reasons that a condition of a volume can have.
func VolumeConditions() []Reason {
	return []Reason{
		ObjectDamaged, ImageMissing, ImageTooShort, ImageUnreadable, FilesystemShutDown, FilesystemReadOnly,
		FilesystemErrors, GuardFroze, AttachedTwice, DirectIOOff, DeviceTooSmall, PoolMissing, PoolFailed, PoolSilent,
	}
}

// Reasons are all reasons that a notice can have.
func Reasons() []Reason {
	return []Reason{
		PoolMissing, PoolBack, PoolNew, PoolSlow, PoolUnmeasured, PoolSizeKept, PoolGrown, FilesystemKept, ImageReallocated, DirectIOOff,
		ObjectDamaged, OrphanFound, CleanupFailed, BallastMissing, FreezeThawed, ThawFailed,
		PoolFailed, PoolSilent, PoolNearlyFull, PromiseAtRisk, ProfileUnsafe, DiskErrors, PoolImageMissing, ImagePunched,
		ImageMissing, ImageTooShort, ImageUnreadable, AttachedTwice, DeviceTooSmall, FilesystemShutDown, FilesystemReadOnly,
		FilesystemErrors, Healed,
		PromisesStopped, PromisesAgain, GuardFroze, GuardThawed, GuardFailed,
	}
}

// Warning says whether something is wrong, or was.
func (r Reason) Warning() bool {
	switch r {
	case PoolBack, PoolGrown, Healed, PromisesAgain, GuardThawed:
		return false
	}
	return true
}

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
