package local

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Whoever asks about a volume whose disk hangs is told so, and many calls leave no
// more behind than one.
func TestQuestionsAboutAHungDiskDoNotPileUp(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	b.expect("before", b.found(v.ID))
	p := b.poolNamed("default")
	p.mu.Lock() // as one holds it that waits for the disk
	ask := func() {
		conditions, err := b.Health(t.Context(), v.ID)
		if err != nil || len(conditions) != 1 || conditions[0].Reason != string(PoolSilent) {
			t.Errorf("%v, %v", conditions, err)
		}
	}
	before := runtime.NumGoroutine()
	var first sync.WaitGroup
	start := time.Now()
	for range 20 {
		first.Go(ask)
	}
	first.Wait()
	if took := time.Since(start); took > askWait+2*time.Second {
		t.Errorf("the first answers took %s", took)
	}
	start = time.Now()
	ask()
	if took := time.Since(start); took > time.Second {
		t.Errorf("a later answer took %s", took)
	}
	if more := runtime.NumGoroutine() - before; more > 5 {
		t.Errorf("%d goroutines were left", more)
	}
	p.mu.Unlock()
	within(t, 5*time.Second, "it answers", func() bool {
		conditions, err := b.Health(t.Context(), v.ID)
		return err == nil && len(conditions) == 0
	})
}
