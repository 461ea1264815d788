package backendtest

import (
	"fmt"
	"sync"
)

// injector is the hook of an engine under test. It counts the steps that are
// taken during the calls of a session and does something at one of them. Steps
// outside of such a call pass.
type injector struct {
	mu     sync.Mutex
	inCall bool
	target int      // index of the step at which to act; -1 is none
	steps  []string // that were taken since arm
	act    func() error
}

// arm starts to count and chooses the step, counted from 0, at which the action
// of during is taken; -1 is none.
func (i *injector) arm(target int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.target, i.steps = target, nil
}

// fired says whether the chosen step was reached, and which it was.
func (i *injector) fired() (step string, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.target < 0 || i.target >= len(i.steps) {
		return "", false
	}
	return fmt.Sprintf("step %d, %s", i.target, i.steps[i.target]), true
}

// taken are the steps since arm.
func (i *injector) taken() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.steps
}

// during runs a call of the engine and reports whether the action was taken in
// it. The action may be nil.
func (i *injector) during(act func() error, call func()) bool {
	_, before := i.fired()
	i.set(true, act)
	defer i.set(false, nil)
	call()
	_, after := i.fired()
	return after && !before
}

func (i *injector) set(inCall bool, act func() error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.inCall, i.act = inCall, act
}

func (i *injector) hook(step string) error {
	i.mu.Lock()
	act := i.act
	if !i.inCall || len(i.steps) != i.target {
		act = nil
	}
	if i.inCall {
		i.steps = append(i.steps, step)
	}
	i.mu.Unlock()
	if act == nil {
		return nil
	}
	return act()
}
