package loop

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Lister lists the attached devices as List does, for those who look again and
// again and must not be held up: the kernel asks the filesystem of a device's
// backing file (loop_get_status), and one on a server that is gone does not answer.
// Such a device is waited for once, for listWait, and not asked again before it
// answered. The zero value is ready. Its methods may be called at the same time.
type Lister struct {
	mu    sync.Mutex
	busy  map[int]bool // do not answer
	known map[int]listed
	// look is lookAgain, but in tests.
	look func(index int) (Info, bool, error)
}

// listed is what a device answered last.
type listed struct {
	sequence uint64
	info     Info
}

// listWait is how long one device is waited for.
const listWait = time.Second

// List is every attached device, in order of index. One that does not answer is as
// it was when it answered last; it is in silent, and nowhere else, if it never did.
func (l *Lister) List() (infos []Info, silent []int, err error) {
	fail := func(err error) ([]Info, []int, error) {
		return nil, nil, fmt.Errorf("list loop devices: %w", err)
	}
	dir, err := os.Open(sysBlock)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	indices, err := loopIndices(dir)
	if err != nil {
		return fail(err)
	}
	indices = slices.DeleteFunc(indices, func(i int) bool { return !isAttachedIn(dir, i) })
	slices.Sort(indices)
	l.forgetOthers(indices)
	var mute []int
	ask := slices.DeleteFunc(slices.Clone(indices), func(i int) bool {
		if l.isBusy(i) {
			mute = append(mute, i)
			return true
		}
		return false
	})
	for len(ask) > 0 {
		sequences := map[int]uint64{}
		for _, i := range ask {
			sequences[i], _ = sequenceIn(dir, i) // 0 if the kernel is older than 5.15
		}
		answers, stop := l.start(ask)
		n, err := l.collect(ask, sequences, answers, &infos)
		if err != nil {
			close(stop)
			return fail(err)
		}
		if n < len(ask) {
			mute = append(mute, ask[n])
			l.setBusy(ask[n])
			n++
		}
		close(stop)
		ask = ask[n:]
	}
	for _, i := range mute {
		sequence, _ := sequenceIn(dir, i)
		if k, ok := l.last(i); ok && k.sequence == sequence {
			infos = append(infos, k.info)
		} else {
			silent = append(silent, i)
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return a.Index - b.Index })
	slices.Sort(silent)
	return infos, silent, nil
}

// answer is what one device says.
type answer struct {
	info Info
	ok   bool
	err  error
}

// start asks devices one after the other until stop is closed.
func (l *Lister) start(indices []int) (answers chan answer, stop chan struct{}) {
	answers, stop = make(chan answer), make(chan struct{})
	look := l.look
	if look == nil {
		look = lookAgain
	}
	go func() {
		for _, i := range indices {
			info, ok, err := look(i)
			select {
			case answers <- answer{info, ok, err}:
			case <-stop: // nobody waits for it any more
				l.setAnswered(i)
				return
			}
		}
	}()
	return answers, stop
}

// collect takes answers until all are there, or one is not for listWait. It is how
// many there were.
func (l *Lister) collect(indices []int, sequences map[int]uint64, answers chan answer, infos *[]Info) (n int, err error) {
	timer := time.NewTimer(listWait)
	defer timer.Stop()
	for ; n < len(indices); n++ {
		select {
		case a := <-answers:
			if a.err != nil {
				return n, a.err
			}
			if a.ok {
				l.remember(listed{sequences[indices[n]], a.info})
				*infos = append(*infos, a.info)
			}
			timer.Reset(listWait)
		case <-timer.C:
			return n, nil
		}
	}
	return n, nil
}

func (l *Lister) isBusy(index int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy[index]
}

func (l *Lister) setBusy(index int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy == nil {
		l.busy = map[int]bool{}
	}
	l.busy[index] = true
}

func (l *Lister) setAnswered(index int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, index)
}

func (l *Lister) last(index int) (listed, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, ok := l.known[index]
	return k, ok
}

func (l *Lister) remember(k listed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[int]listed{}
	}
	l.known[k.info.Index] = k
}

// forgetOthers forgets the devices that are not attached any more.
func (l *Lister) forgetOthers(indices []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.known {
		if _, ok := slices.BinarySearch(indices, i); !ok {
			delete(l.known, i)
		}
	}
}
