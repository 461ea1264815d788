package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// loopMajor is the major number of loop devices (kernel,
// Documentation/admin-guide/devices.txt).
const loopMajor = 7

// checkForeign is ErrPrecondition if what is mounted at the path clearly belongs to
// somebody else: the filesystem or the device of another volume, or something that
// is no volume at all. A request that names the wrong path must not take the mount
// away from a pod that uses it.
//
// A doubt is not enough, because a pod that cannot be torn down is worse: whatever
// lies on a layer of this volume goes with it, and so does what is dead, and what
// is on a loop device that is not attached any more. id is "" for a volume that
// cannot be one of ours.
func (s *Server) checkForeign(ctx context.Context, id volume.ID, path string) error {
	infos, err := mount.List()
	if err != nil {
		return err
	}
	layers := mount.At(infos, path)
	if len(layers) == 0 {
		return nil
	}
	dev, attached, err := s.lookupAny(ctx, id)
	if err != nil {
		return err
	}
	if attached {
		defer dev.Close()
		for _, i := range layers {
			if i.Major == dev.Major && i.Minor == dev.Minor {
				return nil
			}
		}
	}
	top := layers[len(layers)-1]
	number, isBlock, err := s.deviceAt(path)
	switch {
	case err != nil || top.Failed() != "":
		return nil
	case isBlock && id != "" && dev == nil:
		// Somebody may have detached the device by force, and its number may be
		// another's now: nothing says whose node this was.
		return nil
	case !isBlock:
		number = unix.Mkdev(top.Major, top.Minor)
	}
	theirs, err := isForeign(id, dev, number)
	if err != nil || !theirs {
		return err
	}
	if alive, err := s.answers(ctx, path); err != nil || !alive {
		return err
	}
	return fmt.Errorf("%w: %s of %s (device %d:%d) is mounted at %s, which is not this volume's: unmount it by hand if nobody needs it",
		volume.ErrPrecondition, top.FSType, top.Source, unix.Major(number), unix.Minor(number), path)
}

// lookupAny is lookup, to which an id that is none of ours is not attached.
func (s *Server) lookupAny(ctx context.Context, id volume.ID) (*backend.Device, bool, error) {
	if id == "" {
		return nil, false, nil
	}
	return s.lookup(ctx, id)
}

// isForeign says whether a device is there and is neither the volume's own (dev, nil
// if there is none), nor one that was made for the volume as that was, or as a
// read-only one on it.
func isForeign(id volume.ID, dev *backend.Device, number uint64) (bool, error) {
	tags := []string{}
	if id != "" {
		tags = append(tags, stackedTag(id))
	}
	if dev != nil {
		own := unix.Mkdev(dev.Major, dev.Minor)
		if number == own {
			return false, nil
		}
		l, found, err := findLoop(own)
		if err != nil {
			return false, err
		}
		if found {
			tags = append(tags, l.Tag)
		}
	}
	if unix.Major(number) != loopMajor {
		return true, nil
	}
	l, found, err := findLoop(number)
	return found && !slices.Contains(tags, l.Tag), err
}

// findLoop is the attached loop device with this number.
func findLoop(number uint64) (loop.Info, bool, error) {
	return loop.WithNumber(unix.Major(number), unix.Minor(number))
}

// answers says whether what is mounted at the path is alive. It may be a
// filesystem of any kind, also one whose server hangs, so the wait ends with ctx.
func (s *Server) answers(ctx context.Context, path string) (bool, error) {
	answer := make(chan error, 1)
	go func() {
		t, err := s.root.OpenTarget(path)
		if err == nil {
			err = errors.Join(filesystem.Alive(t.File()), t.Close())
		}
		answer <- err
	}()
	select {
	case err := <-answer:
		return !isDead(err), nil
	case <-ctx.Done():
		return false, fmt.Errorf("look at %s: %w", path, ctx.Err())
	}
}

// isDead says whether an error is one that a mount gives which is of no use to
// anybody any more.
func isDead(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && mountutils.IsCorruptedMnt(errno)
}
