package local

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
)

// around keeps the last list of loop devices and mounts for a moment, so that many
// questions at once make one list. The zero value is ready.
type around struct {
	mu   sync.Mutex // held while a list is made, which others want too
	last *surroundings
	// loops waits for nobody: one device of somebody else that hangs must not make
	// all pools silent.
	loops loop.Lister
}

// surroundings are the loop devices and the mounts of this machine at one instant.
type surroundings struct {
	at     time.Time
	took   time.Duration           // to make it
	mounts map[uint64][]mount.Info // by device number
	tagged map[string][]loop.Info  // by tag
	files  map[fileID][]loop.Info  // by backing file
	silent []int                   // loop devices of which nothing is known
}

// fileID is a file as stat(2) knows it.
type fileID struct{ dev, inode uint64 }

// A list may be used once more while it is younger than aroundShare times what it
// took to make, so that questions about one volume after the other cost a twentieth
// of a processor and no more; and never when it is older than aroundAge.
const (
	aroundShare = 20
	aroundAge   = time.Second
)

// recent is a list that was made a moment ago, or now.
func (a *around) recent() (*surroundings, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil && time.Since(a.last.at) < min(aroundShare*a.last.took, aroundAge) {
		return a.last, nil
	}
	return a.makeLocked()
}

// now is a list that is made now.
func (a *around) now() (*surroundings, error) {
	asked := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil && a.last.at.After(asked) { // while this waited
		return a.last, nil
	}
	return a.makeLocked()
}

func (a *around) makeLocked() (*surroundings, error) {
	s := &surroundings{at: time.Now(), mounts: map[uint64][]mount.Info{}, tagged: map[string][]loop.Info{}, files: map[fileID][]loop.Info{}}
	// Mounts first: one whose device is gone says nothing, but a device without its
	// mounts would pass for idle.
	mounts, err := mount.List()
	if err != nil {
		return nil, err
	}
	loops, silent, err := a.loops.List()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		dev := unix.Mkdev(m.Major, m.Minor)
		s.mounts[dev] = append(s.mounts[dev], m)
	}
	for _, l := range loops {
		file := fileID{l.BackingDev, l.BackingInode}
		s.tagged[l.Tag] = append(s.tagged[l.Tag], l)
		s.files[file] = append(s.files[file], l)
	}
	s.silent = silent
	s.took = time.Since(s.at)
	a.last = s
	return s, nil
}
