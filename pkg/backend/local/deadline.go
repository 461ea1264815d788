package local

import (
	"os"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
)

// freezeLimit thaws a filesystem of ours whose freeze lasts too long.
//
// FIFREEZE itself stops the writers when it begins, may take its time, and can
// neither be broken off nor undone before it has ended. So a limit that is passed
// meanwhile leaves the thaw to the one who freezes.
type freezeLimit struct {
	timer *time.Timer

	// mu is held while the limit thaws: root outlives that.
	mu     sync.Mutex
	begun  bool // the freeze has succeeded
	passed bool
	ended  bool
}

// thawAt arms the limit, before the freeze. root must stay open until stop.
func thawAt(at time.Time, root *os.File) *freezeLimit {
	l := &freezeLimit{}
	l.timer = time.AfterFunc(time.Until(at), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ended {
			return
		}
		l.passed = true
		if l.begun {
			// Who froze tries again and reports.
			_ = filesystem.Thaw(root)
		}
	})
	return l
}

// frozen says that the freeze has succeeded. It is false if the time is up: then
// the caller thaws at once.
func (l *freezeLimit) frozen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = true
	return !l.passed
}

// stop ends the limit and says whether it was passed. Stopping twice is harmless.
func (l *freezeLimit) stop() (passed bool) {
	l.timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	return l.passed
}
