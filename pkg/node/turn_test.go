package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestOneVolumeHasOneTurn(t *testing.T) {
	var all turns
	var wg sync.WaitGroup
	inside := 0
	for range 50 {
		wg.Go(func() {
			end, err := all.take(t.Context(), "v")
			if err != nil {
				t.Error(err)
				return
			}
			defer end()
			if inside++; inside != 1 {
				t.Errorf("%d at once", inside)
			}
			time.Sleep(100 * time.Microsecond)
			inside--
		})
	}
	wg.Wait()
	if len(all.held) != 0 {
		t.Errorf("%d turns are remembered for nobody", len(all.held))
	}
}

func TestAnotherVolumeDoesNotWait(t *testing.T) {
	var all turns
	end, err := all.take(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	other, err := all.take(t.Context(), "w")
	if err != nil {
		t.Fatal(err)
	}
	other()
}

func TestWaitingForATurnEndsWithTheContext(t *testing.T) {
	var all turns
	end, err := all.take(t.Context(), "v")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := all.take(ctx, "v"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	end()
	if len(all.held) != 0 {
		t.Errorf("%d turns are remembered for nobody", len(all.held))
	}
}
