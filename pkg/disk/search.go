package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Search looks for filesystems on the devices of this machine, again and again. A
// device that does not answer holds up nobody for longer than searchWait, and is not
// asked again before it did. The zero value is ready. Its methods may be called at
// the same time.
type Search struct {
	mu     sync.Mutex
	probes map[sight]*probe
	// read is Device.read, but in tests.
	read func(Device) contents
}

const (
	// searchWait bounds how long a search waits for devices.
	searchWait = 2 * time.Second
	// searchRest is how long a device counts as without the filesystem after it was
	// read: a disk that is away is looked for every few seconds.
	searchRest = 30 * time.Second
)

// sight is a device with its disk sequence number, which is another when something
// else is plugged in (Documentation/ABI/stable/sysfs-block, diskseq); "" before
// Linux 5.15.
type sight struct {
	Device
	sequence string
}

func sightOf(d Device) sight {
	dir := filepath.Join("/sys/class/block", d.Name)
	text, err := os.ReadFile(filepath.Join(dir, "diskseq"))
	if err != nil { // a partition has that of its disk
		if link, err := filepath.EvalSymlinks(dir); err == nil {
			text, _ = os.ReadFile(filepath.Join(filepath.Dir(link), "diskseq"))
		}
	}
	return sight{d, strings.TrimSpace(string(text))}
}

// contents is what was read from a device.
type contents struct {
	filesystem Filesystem
	member     string // see memberOf
	ok         bool   // there is a filesystem
	err        error
}

// probe is one reading of a device.
type probe struct {
	begun time.Time
	done  chan struct{} // closed when contents is complete
	contents
}

func (p *probe) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Found is what a search for a filesystem has found.
type Found struct {
	// Devices have the filesystem.
	Devices []Device
	// Members show it too and are parts of something that is not assembled.
	Members []Member
	// Unread do not answer, or answer with an error.
	Unread []Device
}

// Member is a device that is a part of something.
type Member struct {
	Device
	// What it is, such as "a member of a Linux RAID".
	What string
}

// WithFilesystem are the devices that have a filesystem of this UUID and that
// belong to no other device: the members of an array or a multipath show what the
// whole shows. Those of an array that is not assembled are known by what is written
// on them; the paths of a multipath that is not are not, and count as copies. skip
// says which devices are not even looked at; it may be nil.
//
// What it finds was read now. That nothing has the filesystem may be as old as
// searchRest, except of devices that are new.
func (s *Search) WithFilesystem(uuid string, skip func(Device) bool) (Found, error) {
	all, err := List()
	if err != nil {
		return Found{}, err
	}
	var sights []sight
	for _, d := range all {
		if skip != nil && skip(d) || len(d.Holders()) > 0 {
			continue
		}
		sights = append(sights, sightOf(d))
	}
	s.forgetOthers(sights)
	found := s.look(sights, uuid, searchRest)
	if len(found.Devices)+len(found.Members) > 0 {
		// A copy may have been made of it.
		found = s.look(sights, uuid, 0)
	}
	return found, nil
}

func (s *Search) look(sights []sight, uuid string, rest time.Duration) Found {
	ctx, cancel := context.WithTimeout(context.Background(), searchWait)
	defer cancel()
	now := time.Now()
	var probes []*probe
	for _, d := range sights {
		probes = append(probes, s.probe(d, now, rest))
	}
	var out Found
	for i, p := range probes {
		d := sights[i].Device
		if !p.wait(ctx, now) {
			out.Unread = append(out.Unread, d)
			continue
		}
		switch {
		case errors.Is(p.err, fs.ErrNotExist), errors.Is(p.err, unix.ENXIO): // gone just now
		case p.err != nil:
			out.Unread = append(out.Unread, d)
		case !p.ok || p.filesystem.UUID != uuid:
		case p.member != "":
			out.Members = append(out.Members, Member{d, p.member})
		default:
			out.Devices = append(out.Devices, d)
		}
	}
	return out
}

// wait is false if the device does not answer: not until ctx ends, or since long
// before now.
func (p *probe) wait(ctx context.Context, now time.Time) bool {
	if now.Sub(p.begun) > searchWait {
		return p.isDone()
	}
	select {
	case <-p.done:
		return true
	case <-ctx.Done():
		return p.isDone()
	}
}

// probe is the reading of a device that is under way, one that is younger than rest,
// or a new one. One that ended with an error other than that of a bad disk is not
// used again: the device's node may just not have been made.
func (s *Search) probe(d sight, now time.Time, rest time.Duration) *probe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.probes[d]; ok {
		if !p.isDone() || now.Sub(p.begun) < rest && (p.err == nil || errors.Is(p.err, unix.EIO)) {
			return p
		}
	}
	read := s.read
	if read == nil {
		read = Device.read
	}
	p := &probe{begun: now, done: make(chan struct{})}
	if s.probes == nil {
		s.probes = map[sight]*probe{}
	}
	s.probes[d] = p
	go func() {
		defer close(p.done)
		p.contents = read(d.Device)
	}()
	return p
}

// forgetOthers forgets what was read of devices that are gone. One that does not
// answer is remembered for as long as somebody waits for it.
func (s *Search) forgetOthers(sights []sight) {
	here := map[sight]bool{}
	for _, d := range sights {
		here[d] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, p := range s.probes {
		if !here[d] && p.isDone() {
			delete(s.probes, d)
		}
	}
}
