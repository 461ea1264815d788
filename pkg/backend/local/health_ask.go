package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// question is an examination of one volume that is under way. All who ask about the
// volume meanwhile wait for this one, so that a disk which hangs holds one of the
// driver's threads for each volume and not one for each call.
type question struct {
	begun time.Time
	done  chan struct{} // closed when the answer is complete

	conditions []volume.Condition
	err        error
}

// question is the one about a volume that is under way, or a new one, which examine
// answers.
func (h *health) question(id volume.ID, examine func() ([]volume.Condition, error)) *question {
	h.mu.Lock()
	defer h.mu.Unlock()
	if q, ok := h.asked[id]; ok {
		return q
	}
	q := &question{begun: time.Now(), done: make(chan struct{})}
	h.asked[id] = q
	go func() {
		defer close(q.done)
		q.conditions, q.err = examine()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.asked, id)
	}()
	return q
}

// wait is false if there is no answer for askWait after the question was put.
func (q *question) wait(ctx context.Context) (bool, error) {
	timer := time.NewTimer(time.Until(q.begun.Add(askWait)))
	defer timer.Stop()
	select {
	case <-q.done:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		// A caller with less patience learns the same.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return false, nil
		}
		return false, context.Cause(ctx)
	}
}

// ask looks at one volume, and waits for its disk no longer than askWait.
func (b *Backend) ask(ctx context.Context, p *pool, info volume.Pool, id volume.ID) ([]volume.Condition, error) {
	q := b.health.question(id, func() ([]volume.Condition, error) { return p.healthOf(id) })
	answered, err := q.wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", id, err)
	}
	if !answered {
		return []volume.Condition{silent(time.Since(q.begun))}, nil
	}
	if q.err != nil {
		return nil, q.err
	}
	if b.health.isNews(id, info.Name, len(q.conditions) == 0) {
		b.health.lookSoon() // lists and metrics should know
	}
	if !info.Available {
		return withCondition(q.conditions, condition(volume.Inaccessible, PoolFailed, "%s", info.Reason)), nil
	}
	return q.conditions, nil
}
