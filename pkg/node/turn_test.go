package node

import (
	"context"
	"errors"
	"os"
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

func TestAnUnmountThatHangsHoldsUpNobody(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	b.mustPublish(t, readOnly(b.publishRequest(v, "old", rwo)))
	hangs, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	b.fault = func(step string) error {
		if step == StepUnpublishRemove {
			close(hangs)
			<-goOn
		}
		return nil
	}
	go func() { done <- b.unpublish(t.Context(), v, "old") }()
	<-hangs
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := b.NodePublishVolume(ctx, readOnly(b.publishRequest(v, "new", rwo))); err != nil {
		t.Error(err)
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.fault = nil
	wantDevice(t, b.target("new"), make([]byte, 4096))
	wantDevices(t, stackedTag(v.ID), 1)
	b.mustEnd(t, v, "new")
}

func TestReadersThatComeAndGoAlwaysHaveTheirDevice(t *testing.T) {
	b := newBench(t)
	v := b.images.create(t, "v", block, sizeOf(block))
	b.mustStage(t, v, rwo)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			name := string(rune('a' + i))
			for range 25 {
				if _, err := b.NodePublishVolume(t.Context(), readOnly(b.publishRequest(v, name, rwo))); err != nil {
					t.Error(err)
					return
				}
				f, err := os.Open(b.target(name))
				if err == nil {
					_, err = f.ReadAt(make([]byte, 512), 0)
					err = errors.Join(err, f.Close())
				}
				if err != nil {
					t.Errorf("the device of %s is gone: %v", name, err)
				}
				if err := b.unpublish(t.Context(), v, name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.mustEnd(t, v)
}
