package loop

import (
	"errors"
	"math/rand/v2"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctlUint64(f *os.File, request uint) (uint64, error) {
	var v uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&v))); errno != 0 {
		return 0, errno
	}
	return v, nil
}

// retryBusy repeats an ioctl that another opener of the device (udev, blkid) can
// disturb for an instant: EAGAIN says that pages of the device could not be
// dropped just then.
func retryBusy(ioctl func() error) error {
	var err error
	for range 50 {
		err = ioctl()
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return err
		}
		time.Sleep(jitter(5 * time.Millisecond))
	}
	return err
}

func jitter(up time.Duration) time.Duration { return rand.N(up) + time.Microsecond }
