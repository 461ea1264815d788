package local

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/xfs"
)

// A copy of a file with many extents takes long, about 15 ms for each 1,000 of
// them, and whoever writes to the volume waits. A copy onto one that shares the
// extents already takes half a millisecond for as many. So the copy is first made in
// small parts, while the volume is written to; then again, for what was written
// meanwhile, which takes less time; and when little is left, at one instant (ADR 13
// has the figures).

const (
	// prepareFrom is the number of extents from which on that is worth while.
	prepareFrom = 1000
	// prepareStep is how many extents are copied at once: writers wait for some
	// milliseconds.
	prepareStep = 256
	// A pass that took no longer than prepareEnough leaves little to do, and no more
	// than preparePasses are made: a writer may be as fast as they are.
	prepareEnough = 100 * time.Millisecond
	preparePasses = 6
)

// prepareCopy makes all but the last of these copies.
func (s *xfsStore) prepareCopy(ctx context.Context, from, to *os.File, kept func() error) error {
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
	for range preparePasses {
		took, err := copyInParts(ctx, src, dst, st.Size(), kept)
		if err != nil || took < prepareEnough {
			return err
		}
	}
	return nil
}

// copyInParts copies all but a few last extents, and returns how long it worked.
// It rests as long, for the volume's writers.
func copyInParts(ctx context.Context, src, dst *os.File, size int64, kept func() error) (worked time.Duration, err error) {
	start, n := int64(0), 0
	err = xfs.WalkExtents(src, func(e xfs.Extent) error {
		if n++; n < prepareStep {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copy %s: %w", src.Name(), context.Cause(ctx))
		}
		end := min(e.Offset+e.Length, size)
		if end <= start {
			return nil
		}
		if err := kept(); err != nil {
			return err
		}
		began := time.Now()
		if err := xfs.CloneRange(src, dst, start, end-start); err != nil {
			return err
		}
		took := time.Since(began)
		start, n, worked = end, 0, worked+took
		time.Sleep(took)
		return nil
	})
	return worked, err
}
