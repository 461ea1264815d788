package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// A freeze intent is a file that is durable before a filesystem is frozen and
// goes after it was thawed. While the driver that wrote it lives, it holds
// flock(2) on the file: whoever can take the lock knows that nobody is left to
// thaw.
//
// Three parties meet here: the driver that freezes, another driver that starts
// meanwhile, and the watchdog. What keeps them from harming each other:
//
//   - A name is only given to a new intent if no file has it, and only taken away
//     by the holder of that file's lock. So whoever holds the lock of the file
//     that has the name can thaw and remove, and no other freeze of the volume
//     begins before.
//   - The watchdog, which may thaw against a lock, first marks the file itself
//     (intentBroken), never the name. The driver looks at its own open file.
//   - A driver whose filesystem is not frozen any more when it wants to thaw it
//     knows without any file that the copy cannot be used.

// intent is the content of the file.
type intent struct {
	Volume volume.ID     `json:"volume"`
	FSType volume.FSType `json:"fsType,omitempty"`
	Since  time.Time     `json:"since"` // for people: the clock may be set
	// Boot and Uptime say when the intent was written in a way that no clock
	// setting changes.
	Boot   string        `json:"boot"`
	Uptime time.Duration `json:"uptimeNanoseconds"`
}

// intentBroken is the mark: the file mode of an intent that its owner may not
// write to. Changing the mode needs no space and cannot be half done.
const intentBroken = 0o400

// intents are the freeze intents in a state directory.
type intents struct {
	state *os.Root
}

func intentFile(id volume.ID) string { return path.Join(stateDirFreeze, string(id)+".json") }

// list is the volumes that have an intent.
func (in intents) list() ([]volume.ID, error) {
	entries, err := fs.ReadDir(in.state.FS(), stateDirFreeze)
	if err != nil {
		return nil, fmt.Errorf("list freeze intents: %w", err)
	}
	var ids []volume.ID
	for _, e := range entries {
		id, err := volume.ParseID(volume.KindVolume, strings.TrimSuffix(e.Name(), ".json"))
		if err != nil {
			continue // a temporary file
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// heldIntent is the intent of a freeze of ours.
type heldIntent struct {
	intents
	id    volume.ID
	since time.Time // what the intent says; with the monotonic clock
	file  *os.File
}

// intentPatience is how long write waits for another party to finish with the
// volume's last intent.
const intentPatience = 2 * time.Second

// write says that a filesystem will be frozen, after it has dealt with what a
// driver that died has left. It is volume.ErrBusy if another party has an intent
// for the volume.
func (in intents) write(ctx context.Context, id volume.ID, fsType volume.FSType) (*heldIntent, error) {
	for end := time.Now().Add(intentPatience); ; {
		if _, err := in.thawLeft(ctx, id); err != nil {
			return nil, err
		}
		held, err := in.writeNew(id, fsType)
		if !errors.Is(err, fs.ErrExist) {
			return held, err
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return nil, fmt.Errorf("%w: another driver, or the freeze watchdog, is thawing %s; try again", volume.ErrBusy, id)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (in intents) writeNew(id volume.ID, fsType volume.FSType) (*heldIntent, error) {
	since := time.Now()
	boot, uptime, err := uptime()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(intent{Volume: id, FSType: fsType, Since: since.UTC(), Boot: boot, Uptime: uptime})
	if err != nil {
		return nil, fmt.Errorf("encode freeze intent: %w", err)
	}
	file, err := durable.WriteLocked(in.state, intentFile(id), append(data, '\n'))
	if err != nil {
		return nil, fmt.Errorf("write down that %s will be frozen: %w", id, err)
	}
	return &heldIntent{intents: in, id: id, since: since, file: file}, nil
}

// broken says whether the watchdog has thawed, or is about to thaw, the
// filesystem while we had it frozen.
func (h *heldIntent) broken() (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(h.file.Fd()), &st); err != nil {
		return false, fmt.Errorf("look at the freeze intent of %s: %w", h.id, err)
	}
	return st.Mode&0o777 == intentBroken, nil
}

// end removes the intent of a filesystem that was thawed, which need not be
// durable, for a thaw too many does no harm. One that could not be thawed is left
// to whoever looks for intents.
func (h *heldIntent) end(thawed bool) error {
	if !thawed {
		return h.file.Close() // and with it the lock
	}
	return errors.Join(h.remove(h.id), h.file.Close())
}

// remove takes the intent's name away. Only the holder of its lock may.
func (in intents) remove(id volume.ID) error {
	if err := in.state.Remove(intentFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget that %s was frozen: %w", id, err)
	}
	return nil
}

// open opens the intent of a volume; nil if there is none.
func (in intents) open(id volume.ID) (*os.File, error) {
	f, err := in.state.OpenFile(intentFile(id), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open freeze intent: %w", err)
	}
	return f, nil
}

// current says whether an open intent still is the one that has the name.
func (in intents) current(f *os.File, id volume.ID) (bool, error) {
	now, err := in.state.Lstat(intentFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the freeze intent of %s: %w", id, err)
	}
	opened, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("look at the freeze intent of %s: %w", id, err)
	}
	return os.SameFile(now, opened), nil
}

// take locks an open intent. It is false if a driver that lives holds it, or if
// it is not the volume's intent any more: somebody else has dealt with it.
func (in intents) take(f *os.File, id volume.ID) (bool, error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("lock freeze intent: %w", err)
	}
	return in.current(f, id)
}

func readIntent(f *os.File) (intent, error) {
	data, err := io.ReadAll(f)
	if err != nil {
		return intent{}, fmt.Errorf("read freeze intent: %w", err)
	}
	var out intent
	if err := json.Unmarshal(data, &out); err != nil {
		return intent{}, fmt.Errorf("read freeze intent %s: %w", f.Name(), err)
	}
	return out, nil
}

// thawLeft thaws a filesystem that a driver which died has left frozen, and says
// whether it was. One that a driver which lives has frozen is left alone. It needs
// no pool: a pool on a frozen machine may not come up.
func (in intents) thawLeft(ctx context.Context, id volume.ID) (frozen bool, err error) {
	f, err := in.open(id)
	if err != nil || f == nil {
		return false, err
	}
	defer f.Close()
	ours, err := in.take(f, id)
	if err != nil || !ours {
		return false, err
	}
	// What the guard has frozen only the guard thaws: see guard_mark.go.
	if guarded, err := marks(in).frozen(id); err != nil {
		return false, err
	} else if guarded {
		return false, in.remove(id)
	}
	// Whatever is in the file: its name says which volume.
	what, _ := readIntent(f)
	if boot, _, err := uptime(); err == nil && what.Boot != "" && what.Boot != boot {
		return false, in.remove(id) // no freeze outlives its kernel
	}
	frozen, err = thawVolume(ctx, id, what.FSType)
	if err != nil {
		return false, fmt.Errorf("thaw %s: %w; its writers hang until: fsfreeze -u MOUNTPOINT", id, err)
	}
	return frozen, in.remove(id)
}

// thawVolume thaws the filesystem of a volume and says whether it was frozen. A
// volume that is not attached is not frozen.
func thawVolume(ctx context.Context, id volume.ID, fsType volume.FSType) (frozen bool, err error) {
	d, err := openTagged(&loop.Index{}, id)
	if err != nil || d == nil {
		return false, err
	}
	defer d.Close()
	root, err := mountedRoot(ctx, d, fsType)
	if err != nil {
		return false, err
	}
	defer root.Close()
	return filesystem.ThawIfFrozen(root)
}

// uptime is the id of this boot and the time since it began. Time in which the
// machine slept does not count, for nobody could have thawed in it
// (clock_gettime(2), CLOCK_MONOTONIC).
func uptime() (boot string, since time.Duration, err error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0, fmt.Errorf("read the id of this boot: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "", 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return strings.TrimSpace(string(id)), time.Duration(now.Nano()), nil
}
