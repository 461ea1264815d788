package loop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// For the caller, ErrNotFound would be the volume.
func TestADeviceThatOthersKeepTakingIsBusyAndNeverNotFound(t *testing.T) {
	for _, cause := range []error{fmt.Errorf("%w: the loop device is gone", volume.ErrNotFound), unix.EBUSY} {
		attempts := 0
		_, err := persist(t.Context(), func() (*Device, error) { attempts++; return nil, cause })
		if !errors.Is(err, volume.ErrBusy) || errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), cause.Error()) || attempts != attachAttempts+1 {
			t.Errorf("%d attempts with %v: %v, want ErrBusy", attempts, cause, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err = persist(ctx, func() (*Device, error) { return nil, cause })
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, volume.ErrNotFound) {
			t.Errorf("with %v: %v, want DeadlineExceeded", cause, err)
		}
	}
}

func TestAFailureThatNobodyCausedIsNotRepeated(t *testing.T) {
	attempts := 0
	_, err := persist(t.Context(), func() (*Device, error) { attempts++; return nil, unix.EACCES })
	if !errors.Is(err, unix.EACCES) || attempts != 1 {
		t.Errorf("%d attempts: %v", attempts, err)
	}
}
