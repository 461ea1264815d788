package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// turns lets the publishing of one volume, and the sweeping of its devices, happen
// one after the other: "how many targets are there" and "mount one more" must be one
// step. pkg/rpc lets these calls run beside each other. Nothing else is locked while a
// turn is waited for.
type turns struct {
	mu   sync.Mutex
	held map[volume.ID]*turn // mu
}

type turn struct {
	taken chan struct{} // holds one token while somebody has the turn
	users int           // turns.mu: who has it or waits for it
}

// take waits for the volume's turn; the caller calls end once.
func (t *turns) take(ctx context.Context, id volume.ID) (end func(), err error) {
	t.mu.Lock()
	if t.held == nil {
		t.held = map[volume.ID]*turn{}
	}
	mine := t.held[id]
	if mine == nil {
		mine = &turn{taken: make(chan struct{}, 1)}
		t.held[id] = mine
	}
	mine.users++
	t.mu.Unlock()

	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(t.held, id)
		}
	}
	select {
	case mine.taken <- struct{}{}:
		return func() { <-mine.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("wait for another publish of %s: %w", id, ctx.Err())
	}
}
