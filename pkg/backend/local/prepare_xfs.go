package local

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/xfs"
)

// A copy of a file with many extents takes long: 11 ms for each 1,000 of them,
// and whoever writes to the volume waits. A copy onto one that shares the extents
// already takes 0.4 ms (measured: 1.02 s and 36 ms for 92,700 extents). So the
// copy is made twice: once in small parts, while the volume is written to, and
// then at one instant, when only what was written meanwhile is left to do.

const (
	// prepareFrom is the number of extents from which on that is worth while.
	prepareFrom = 1000
	// prepareStep is how many extents are copied at once.
	prepareStep = 256
)

// prepareCopy makes the first of the two copies. It rests as long as it works, for
// the volume's writers.
func (s *xfsStore) prepareCopy(ctx context.Context, from, to *os.File) error {
	src, dst, err := s.openCopy(from, to)
	if err != nil {
		return err
	}
	defer src.Close()
	defer dst.Close()
	if n, err := xfs.Extents(src); err != nil || n < prepareFrom {
		return err
	}
	st, err := src.Stat()
	if err != nil {
		return fmt.Errorf("stat the image: %w", err)
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return fmt.Errorf("size the copy of the image: %w", err)
	}
	start, n := int64(0), 0
	return xfs.WalkExtents(src, func(e xfs.Extent) error {
		if n++; n < prepareStep {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy %s: %w", src.Name(), context.Cause(ctx))
		}
		began := time.Now()
		end := min(e.Offset+e.Length, st.Size())
		if end <= start {
			return nil
		}
		if err := xfs.CloneRange(src, dst, start, end-start); err != nil {
			return err
		}
		start, n = end, 0
		time.Sleep(time.Since(began))
		return nil
	})
}
