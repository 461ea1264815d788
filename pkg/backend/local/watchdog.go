package local

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// WatchdogConfig is what a Watchdog needs.
type WatchdogConfig struct {
	// StateDir is that of the drivers.
	StateDir string
	// FreezeTimeout is that of the drivers; 0 means DefaultFreezeTimeout. A freeze
	// that lasts longer, and a second more, is thawed although its driver lives.
	FreezeTimeout time.Duration
	// Notice is told of each filesystem that was thawed or could not be. It may be
	// nil.
	Notice func(reason Reason, text string)
}

// Watchdog keeps filesystems from staying frozen, whatever happens to the driver
// that froze them: it runs in a process, and in Kubernetes in a container, of its
// own. It acts on freeze intents alone: a filesystem without one is never touched.
//
// An intent whose driver died is dealt with at once, by the same rule as in a
// driver that starts. One whose driver lives but is stopped or hangs is marked,
// and then its filesystem is thawed; the driver finds the mark and does not use
// its copy. It does not matter whether the Watchdog's mount namespace shows the
// filesystem.
type Watchdog struct {
	cfg     WatchdogConfig
	intents intents

	// unlisted is the trouble with the directory. Only look uses it.
	unlisted trouble

	// mu is never held while something is thawed.
	mu       sync.Mutex
	busy     map[volume.ID]bool     // being looked after
	troubles map[volume.ID]*trouble // with each
}

// watchInterval is how soon a Watchdog sees that a driver died. An idle one reads
// an empty directory as often: some microseconds each time.
const watchInterval = 250 * time.Millisecond

// watchdogMargin is what a driver that lives gets beyond FreezeTimeout to thaw by
// itself.
const watchdogMargin = time.Second

// thawTimeout bounds one try to thaw.
const thawTimeout = 30 * time.Second

// NewWatchdog opens the state directory and makes it if it is not there yet. The
// caller closes the Watchdog.
func NewWatchdog(cfg WatchdogConfig) (*Watchdog, error) {
	if cfg.FreezeTimeout == 0 {
		cfg.FreezeTimeout = DefaultFreezeTimeout
	}
	if cfg.Notice == nil {
		cfg.Notice = func(Reason, string) {}
	}
	state, err := openState(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	return &Watchdog{cfg: cfg, intents: intents{state}, busy: map[volume.ID]bool{}, troubles: map[volume.ID]*trouble{}}, nil
}

// Close lets go of the state directory.
func (w *Watchdog) Close() error { return w.intents.state.Close() }

// Run watches until ctx ends and then goes on while there are intents, at most for
// as long as a freeze may last that begins with the last of them: a driver that is
// stopped later may still begin one.
func (w *Watchdog) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	stopping := ctx.Done()
	var end time.Time
	var before map[volume.ID]fs.FileInfo
	for {
		now := w.look(working, &group)
		if stopping == nil {
			if anyNew(before, now) {
				end = w.lastFreeze()
			}
			if len(now) == 0 || time.Now().After(end) {
				return
			}
		}
		before = now
		select {
		case <-stopping:
			stopping, end = nil, w.lastFreeze()
		case <-tick.C:
		}
	}
}

// lastFreeze is when a freeze that begins now is over, one way or the other.
func (w *Watchdog) lastFreeze() time.Time {
	return time.Now().Add(w.cfg.FreezeTimeout + 2*watchdogMargin)
}

// anyNew says whether there is an intent now that was not there before. Its volume
// may have had another one.
func anyNew(before, now map[volume.ID]fs.FileInfo) bool {
	for id, file := range now {
		was := before[id]
		if was == nil || !os.SameFile(was, file) || !was.ModTime().Equal(file.ModTime()) {
			return true
		}
	}
	return false
}

// look starts to look after each intent, in a goroutine of its own: a filesystem
// that hangs must not keep another one frozen. It says which there are.
func (w *Watchdog) look(ctx context.Context, group *sync.WaitGroup) map[volume.ID]fs.FileInfo {
	ids, err := w.intents.list()
	if err == nil {
		w.unlisted = trouble{}
	} else if w.unlisted.isNews(err, time.Now()) {
		w.cfg.Notice(ThawFailed, err.Error()+"; as long as this lasts nothing is thawed")
	}
	found := map[volume.ID]fs.FileInfo{}
	for _, id := range ids {
		if file, err := w.intents.state.Lstat(intentFile(id)); err == nil {
			found[id] = file
		}
		if !w.begin(id) {
			continue
		}
		group.Go(func() {
			defer w.end(id)
			ctx, cancel := context.WithTimeout(ctx, thawTimeout)
			defer cancel()
			w.told(id, w.attend(ctx, id))
		})
	}
	return found
}

func (w *Watchdog) begin(id volume.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[id] {
		return false
	}
	w.busy[id] = true
	return true
}

func (w *Watchdog) end(id volume.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.busy, id)
}

// told tells of an error that is news.
func (w *Watchdog) told(id volume.ID, err error) {
	if w.isNews(id, err) {
		w.cfg.Notice(ThawFailed, fmt.Sprintf("%v; it is tried again every %s", err, watchInterval))
	}
}

func (w *Watchdog) isNews(id volume.ID, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.troubles, id)
		return false
	}
	if w.troubles[id] == nil {
		w.troubles[id] = &trouble{}
	}
	return w.troubles[id].isNews(err, time.Now())
}

// attend does for one intent what must be done now.
func (w *Watchdog) attend(ctx context.Context, id volume.ID) error {
	frozen, err := w.intents.thawLeft(ctx, id)
	if frozen {
		w.cfg.Notice(FreezeThawed, fmt.Sprintf(leftFrozen, id))
	}
	if err != nil {
		return err
	}
	age, frozen, err := w.intents.breakFreeze(ctx, id, w.cfg.FreezeTimeout+watchdogMargin)
	if frozen {
		w.cfg.Notice(FreezeThawed, fmt.Sprintf("the filesystem of %s was frozen for %s by a driver that lives but does not thaw it; thawed, and the copy will not be used", id, age.Round(time.Millisecond)))
	}
	return err
}

// breakFreeze thaws the filesystem of an intent that is older than limit, whoever
// holds it, and says how old the intent is and whether the filesystem was frozen.
// The intent stays: it is its owner's. An owner that freezes only now, because it
// was stopped just before, meets this again the next time.
//
// Between the last look at the intent and the thaw its owner may end it and begin
// another freeze. That one then finds its filesystem thawed, which the owner sees
// by itself.
func (in intents) breakFreeze(ctx context.Context, id volume.ID, limit time.Duration) (age time.Duration, frozen bool, err error) {
	f, err := in.open(id)
	if err != nil || f == nil {
		return 0, false, err
	}
	defer f.Close()
	what, err := readIntent(f)
	if err != nil {
		return 0, false, err
	}
	boot, now, err := uptime()
	if err != nil {
		return 0, false, err
	}
	age = now - what.Uptime
	if what.Boot != boot || age <= limit {
		return age, false, nil
	}
	current, err := in.current(f, id)
	if err != nil || !current {
		return age, false, err
	}
	if guarded, err := marks(in).frozen(id); err != nil || guarded {
		return age, false, err
	}
	// A mark that cannot be made must not keep the writers waiting: the owner
	// still finds the filesystem thawed.
	marked := markBroken(f)
	if frozen, err = thawVolume(ctx, id, what.FSType); err != nil {
		err = fmt.Errorf("thaw %s, frozen for %s: %w; its writers hang until: fsfreeze -u MOUNTPOINT", id, age.Round(time.Second), err)
	}
	if err == nil {
		err = marked
	}
	return age, frozen, err
}

func markBroken(f *os.File) error {
	if err := unix.Fchmod(int(f.Fd()), intentBroken); err != nil {
		return fmt.Errorf("mark the freeze intent %s as broken: %w", f.Name(), err)
	}
	return nil
}
