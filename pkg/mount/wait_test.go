package mount

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestCallerGetsItsAnswerWhenTheKernelHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	kernel, undone := make(chan struct{}), make(chan int)
	go func() {
		time.Sleep(10 * time.Millisecond)
		cancel()
	}()
	_, err := giveUp(ctx, "wait", func() (int, error) { <-kernel; return 7, nil }, func(late int) { undone <- late })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("giveUp = %v, want Canceled", err)
	}
	close(kernel)
	if late := <-undone; late != 7 {
		t.Errorf("undone %d, want 7", late)
	}
}

func TestNothingIsStartedWithAnEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := giveUp(ctx, "wait", func() (int, error) { t.Error("started"); return 0, nil }, func(int) {})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("giveUp = %v, want Canceled", err)
	}
}
