package mount

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
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

func TestRefusalsThatMayPassAreNotFinal(t *testing.T) {
	for _, c := range []struct {
		err  error
		said string
		want error
	}{
		{unix.EBUSY, "e /dev/loop3: Can't open blockdev", volume.ErrBusy},
		{unix.EBUSY, "", volume.ErrBusy},
		{unix.EBUSY, "w loop3: Can't mount, would change RO state", volume.ErrInUse},
		{unix.ENOMEM, "", volume.ErrUnavailable},
		{unix.EINTR, "", volume.ErrUnavailable},
		{unix.EAGAIN, "", volume.ErrUnavailable},
		{unix.EIO, "", volume.ErrPrecondition},
		{unix.EUCLEAN, "", volume.ErrPrecondition},
		{unix.EINVAL, "would change RO state", volume.ErrPrecondition},
	} {
		if got := refusal(c.err, c.said); !errors.Is(got, c.want) {
			t.Errorf("refusal(%v, %q) = %v, want %v", c.err, c.said, got, c.want)
		}
	}
}
