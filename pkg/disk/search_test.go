package disk

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/roottest"
)

// reader stands for disks that hang and fail, which no test can make of loop
// devices. It counts how often each is read.
type reader struct {
	mu     sync.Mutex
	counts map[string]int
	hangs  string // the device that does not answer until let
	fails  string // the one that answers with EIO
	let    chan struct{}
}

func (r *reader) read(d Device) contents {
	r.mu.Lock()
	r.counts[d.Name]++
	r.mu.Unlock()
	switch d.Name {
	case r.hangs:
		<-r.let
	case r.fails:
		return contents{err: unix.EIO}
	}
	return contents{filesystem: Filesystem{UUID: "of " + d.Name}, ok: true}
}

func (r *reader) count(d Device) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[d.Name]
}

func byName(a, b Device) int { return strings.Compare(a.Name, b.Name) }

func TestASearchWaitsForNoDeviceThatDoesNotAnswer(t *testing.T) {
	roottest.Require(t)
	dir := t.TempDir()
	good, silent, bad := attach(t, dir+"/good", false), attach(t, dir+"/silent", false), attach(t, dir+"/bad", false)
	r := &reader{counts: map[string]int{}, hangs: silent.Name, fails: bad.Name, let: make(chan struct{})}
	s := &Search{read: r.read}
	only := func(d Device) bool { return d != good && d != silent && d != bad }
	search := func(uuid string, wait time.Duration, want, unread []Device) {
		t.Helper()
		start := time.Now()
		got, err := s.WithFilesystem(uuid, only)
		slices.SortFunc(got.Unread, byName)
		if err != nil || !slices.Equal(got.Devices, want) || !slices.Equal(got.Unread, unread) {
			t.Errorf("found %+v, %v", got, err)
		}
		if took := time.Since(start); took > wait {
			t.Errorf("it took %s", took)
		}
	}
	unread := []Device{silent, bad}
	slices.SortFunc(unread, byName)
	search("of "+good.Name, 2*searchWait+time.Second, []Device{good}, unread)
	if n := r.count(silent); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	time.Sleep(searchWait)
	// From now on nobody waits, and what was read is read no more.
	before := r.count(good)
	for range 3 {
		search("of nothing", searchWait/2, nil, unread)
	}
	if n := r.count(good); n != before {
		t.Errorf("a device without the filesystem was read %d times more", n-before)
	}
	if n := r.count(silent); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	// What is found was read now.
	search("of "+good.Name, searchWait/2, []Device{good}, unread)
	if n := r.count(good); n == before {
		t.Error("what was found was not read again")
	}
	close(r.let)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if got, err := s.WithFilesystem("of "+silent.Name, only); err == nil && slices.Equal(got.Devices, []Device{silent}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it answered, and is not found")
		}
	}
}

// What is plugged in at the place of another is looked at at once.
func TestANewDeviceIsReadAtOnce(t *testing.T) {
	roottest.Require(t)
	r := &reader{counts: map[string]int{}}
	s := &Search{read: r.read}
	for i := range 2 {
		t.Run("", func(t *testing.T) { // the device goes with the subtest
			d := attach(t, t.TempDir()+"/disk", false)
			before := r.count(d)
			for range 2 {
				if _, err := s.WithFilesystem("of nothing", func(o Device) bool { return o != d }); err != nil {
					t.Fatal(err)
				}
			}
			if n := r.count(d) - before; n != 1 {
				t.Errorf("device %d (%s) was read %d times, want 1", i, d.Name, n)
			}
		})
	}
}
