package node

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAFailedFilesystemIsExplained(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ESTALE, unix.ENOTCONN} {
		err := explainFailure("vol.x", fmt.Errorf("measure: %w", errno))
		if !errors.Is(err, volume.ErrPrecondition) || !errors.Is(err, errno) {
			t.Errorf("%v became %v", errno, err)
		}
	}
	if err := explainFailure("vol.x", unix.ENOMEM); errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("the machine's own trouble was blamed on the filesystem: %v", err)
	}
}
