package loop

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Index finds attached devices as Find and List do, and remembers what it saw of
// each, so that on a machine with a thousand of them a search opens only those
// that are new. The zero value is empty. Its methods may be called at the same
// time.
//
// What is remembered of a device is believed for as long as it has the same disk
// sequence number, which the kernel raises whenever a device gets another backing
// file or loses it (Documentation/ABI/stable/sysfs-block, diskseq). A tag that
// somebody gives to a device after it was attached (LOOP_SET_STATUS) is not seen.
// Whatever is answered was asked of the kernel at that moment, or opened and
// compared.
type Index struct {
	// mu is not held while a device is looked at.
	mu    sync.Mutex
	known map[int]sighting
}

// Seen is an attached device as it was when it was seen first.
type Seen struct {
	Index        int
	Major, Minor uint32
	Tag          string
}

// List is every attached device, in order of index, as it was when it was seen first:
// one that is Dead now still has its tag, unless it was so then. For those who look
// again and again.
func (x *Index) List() ([]Seen, error) {
	var out []Seen
	err := x.each(func(index int, s sighting) error {
		out = append(out, Seen{index, s.major, s.minor, s.tag})
		return nil
	})
	return out, err
}

// sighting is what was seen of an attached device.
type sighting struct {
	major, minor uint32
	sequence     uint64
	tag          string
	dev, inode   uint64 // of the backing file
	path         string // where it seemed to be
}

func sightingOf(sequence uint64, i Info) sighting {
	return sighting{i.Major, i.Minor, sequence, i.Tag, i.BackingDev, i.BackingInode, i.BackingPath}
}

// Find is every attached device with exactly this tag, in order of index.
func (x *Index) Find(tag string) ([]Info, error) { return x.FindAny(Wanted{Tag: tag}) }

// FindOn is every attached device with this backing file, named by device and
// inode number as in Info.
func (x *Index) FindOn(dev, inode uint64) ([]Info, error) {
	return x.FindAny(Wanted{Dev: dev, Inode: inode})
}

// Wanted is what a device is looked for by: it must have one of these. What is zero
// does not count.
type Wanted struct {
	Tag string
	// Dev and Inode are those of the backing file, as in Info.
	Dev, Inode uint64
	// DeadPath is how the path of the backing file ended when the device was seen
	// first, of one that is Dead now, and so has no tag any more.
	DeadPath string
}

func (w Wanted) has(s sighting) bool {
	return w.Tag != "" && s.tag == w.Tag || w.Inode != 0 && s.dev == w.Dev && s.inode == w.Inode
}

func (w Wanted) mayBeDead(s sighting) bool {
	return w.DeadPath != "" && strings.HasSuffix(s.path, w.DeadPath)
}

// FindAny is every attached device that is wanted, in order of index.
func (x *Index) FindAny(w Wanted) ([]Info, error) {
	return x.search(func(s sighting) bool { return w.has(s) || w.mayBeDead(s) }, func(i Info) bool {
		s := sightingOf(0, i)
		return w.has(s) || i.Dead && w.mayBeDead(s)
	})
}

// Open holds an attached device that is wanted; nil means that there is none. The
// device that had the tag last is looked at first, and only if it has it no more,
// all others.
func (x *Index) Open(w Wanted) (*Device, error) {
	if index, ok := x.remembered(w.Tag); ok {
		dev, err := openTagged(index, w.Tag)
		if dev != nil || err != nil {
			return dev, err
		}
	}
	found, err := x.FindAny(w)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	dev, err := found[0].Open()
	if errors.Is(err, volume.ErrNotFound) {
		return nil, nil
	}
	return dev, err
}

func (x *Index) remembered(tag string) (index int, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, s := range x.known {
		if tag != "" && s.tag == tag {
			return i, true
		}
	}
	return 0, false
}

// openTagged opens a device if it has the tag; else it is nil.
func openTagged(index int, tag string) (*Device, error) {
	dev, err := open(index, unix.O_RDONLY)
	if err == nil {
		var status *unix.LoopInfo64
		if status, _, err = dev.status(); err == nil && tagOf(status) == tag {
			return dev, nil
		}
		dev.Close()
		err = notAttached(err)
	}
	if err == nil || !counts(index, err) {
		return nil, nil
	}
	return nil, fmt.Errorf("look at %s: %w", devicePath(index), err)
}

// search opens the devices whose sighting may be one that is wanted, and gives those
// that are.
func (x *Index) search(maybe func(sighting) bool, wanted func(Info) bool) ([]Info, error) {
	var infos []Info
	err := x.each(func(index int, s sighting) error {
		if !maybe(s) {
			return nil
		}
		info, ok, err := lookAgain(index)
		if err == nil && ok && wanted(info) {
			infos = append(infos, info)
		}
		return err
	})
	return infos, err
}

// each shows every attached device to fn, in order of index.
func (x *Index) each(fn func(index int, s sighting) error) error {
	fail := func(err error) error { return fmt.Errorf("search the loop devices: %w", err) }
	dir, err := os.Open(sysBlock)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	indices, err := loopIndices(dir)
	if err != nil {
		return fail(err)
	}
	slices.Sort(indices)
	x.forgetOthers(indices)
	for _, index := range indices {
		s, ok, err := x.see(dir, index)
		if err == nil && ok {
			err = fn(index, s)
		}
		if err != nil {
			return fail(err)
		}
	}
	return nil
}

// see is what is known of a device, or what is seen of it now; ok is false if it is
// not attached. That is not remembered: a device that is just being attached has
// its new number before it shows itself. dir is sysBlock.
func (x *Index) see(dir *os.File, index int) (s sighting, ok bool, err error) {
	if !isAttachedIn(dir, index) {
		return sighting{}, false, nil
	}
	sequence, err := sequenceIn(dir, index)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return sighting{}, false, err
	}
	numbered := err == nil // else the kernel is older than 5.15, or the device is gone
	if numbered {
		x.mu.Lock()
		s, ok = x.known[index]
		x.mu.Unlock()
		if ok && s.sequence == sequence {
			return s, true, nil
		}
	}
	info, ok, err := lookAgain(index)
	if err != nil || !ok {
		return sighting{}, false, err
	}
	s = sightingOf(sequence, info)
	if numbered {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.known == nil {
			x.known = map[int]sighting{}
		}
		x.known[index] = s
	}
	return s, true, nil
}

// lookAgain asks the kernel about a device; ok is false if it is not attached.
func lookAgain(index int) (info Info, ok bool, err error) {
	info, ok, err = look(index, func(string) bool { return true })
	if err != nil && !counts(index, err) {
		return Info{}, false, nil
	}
	return info, ok, err
}

// forgetOthers forgets the devices that do not exist any more.
func (x *Index) forgetOthers(indices []int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range x.known {
		if _, ok := slices.BinarySearch(indices, i); !ok {
			delete(x.known, i)
		}
	}
}

// sequenceIn is the disk sequence number of a device. It is read for every attached
// device in every search, so by three system calls and no more.
func sequenceIn(dir *os.File, index int) (uint64, error) {
	name := "loop" + strconv.Itoa(index) + "/diskseq"
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: dir.Name() + "/" + name, Err: err}
	}
	defer unix.Close(fd)
	var buf [24]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: dir.Name() + "/" + name, Err: err}
	}
	return strconv.ParseUint(strings.TrimSuffix(string(buf[:n]), "\n"), 10, 64)
}
