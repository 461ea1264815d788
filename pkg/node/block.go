package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// publishBlock binds the volume's device node onto the target, or for a read-only
// publication the node of a read-only loop device that is stacked on it: a
// read-only bind of the device itself would not stop writes.
//
// The volume has one stacked loop that all its read-only targets share. It is
// made permanent before a target shows it, so there is never a target whose
// device could vanish and whose number another volume could get. A crash in
// between leaves a stacked loop that no target shows: the next read-only publish
// takes it, and unpublish and unstage sweep it.
func (s *Server) publishBlock(ctx context.Context, p publication, dev *backend.Device) error {
	if s.showsNodeAlready(p, dev) {
		return nil
	}
	infos, err := mount.List()
	if err != nil {
		return err
	}
	if top, mounted := topAt(infos, p.target); mounted {
		stale, err := s.compareBlock(p, top, dev)
		if err != nil || !stale {
			return err
		}
		if err := s.root.Unmount(ctx, p.target); err != nil {
			return err
		}
	}
	if err := s.checkSingle(p, infos, dev); err != nil {
		return err
	}
	node, number := dev.Path, unix.Mkdev(dev.Major, dev.Minor)
	if p.readOnly {
		stacked, err := s.stack(ctx, p.id, dev)
		if err != nil {
			return err
		}
		defer stacked.Close()
		info, err := stacked.Info()
		if err != nil {
			return err
		}
		node, number = stacked.Path(), unix.Mkdev(info.Major, info.Minor)
	}
	file, err := openNode(node, unix.O_PATH, number)
	if err != nil {
		return err
	}
	defer file.Close()
	tree, err := mount.Bind(file, p.readOnly)
	if err != nil {
		return err
	}
	defer tree.Close()
	return s.putAt(p, tree, mount.File)
}

// compareBlock is nil if the target shows the device that was asked for, else
// ErrExists; stale means that it shows a loop device that is not attached any
// more, because somebody detached it by hand.
func (s *Server) compareBlock(p publication, top mount.Info, dev *backend.Device) (stale bool, err error) {
	number, isBlock, err := s.deviceAt(p.target)
	if err != nil {
		return false, err
	}
	if isBlock && number == unix.Mkdev(dev.Major, dev.Minor) {
		return false, p.compare(top, true, false)
	}
	if !isBlock || unix.Major(number) != loopMajor {
		return false, p.compare(top, false, false)
	}
	l, found, err := findLoop(number)
	if err != nil || !found {
		return !found, err
	}
	return false, p.compare(top, l.Tag == stackedTag(p.id), true)
}

// stackedTag is how a read-only loop device on a volume's device is known.
func stackedTag(id volume.ID) string {
	return "holdfast-ro:" + string(id.Pool()) + "." + id.Hash()
}

// findStacked are the read-only loop devices stacked on a volume's device.
func (s *Server) findStacked(id volume.ID) ([]loop.Info, error) {
	return s.loops.Find(stackedTag(id))
}

// stack finds or makes the read-only loop device on dev, with dev's size. The
// caller closes it, which does not detach it.
func (s *Server) stack(ctx context.Context, id volume.ID, dev *backend.Device) (*loop.Device, error) {
	below, err := openNode(dev.Path, unix.O_RDONLY, unix.Mkdev(dev.Major, dev.Minor))
	if err != nil {
		return nil, err
	}
	defer below.Close()
	stacked, err := s.findOn(id, below)
	if err != nil {
		return nil, err
	}
	if stacked == nil {
		if err := s.fault.At(StepPublishStack); err != nil {
			return nil, err
		}
		if stacked, err = attachOn(ctx, id, below); err != nil {
			return nil, err
		}
	}
	if err := s.keep(stacked); err != nil {
		stacked.Close()
		return nil, fmt.Errorf("keep the read-only device of %s: %w", id, err)
	}
	return stacked, nil
}

func (s *Server) keep(stacked *loop.Device) error {
	if err := s.fault.At(StepPublishKeep); err != nil {
		return err
	}
	if err := stacked.SetAutoclear(false); err != nil {
		return err
	}
	// A device that was found may be older than the last growth.
	return stacked.Refresh()
}

// findOn is the stacked device on exactly this device; nil if there is none. One
// with the same tag on an earlier device of the volume shows data that nobody
// writes any more; the sweep takes it.
func (s *Server) findOn(id volume.ID, below *os.File) (*loop.Device, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(below.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", below.Name(), err)
	}
	infos, err := s.findStacked(id)
	if err != nil {
		return nil, err
	}
	for _, i := range infos {
		if !i.ReadOnly || i.BackingDev != st.Dev || i.BackingInode != st.Ino {
			continue
		}
		// One that is not there any more was about to go: a crash left it.
		if dev, err := i.Open(); !errors.Is(err, volume.ErrNotFound) {
			return dev, err
		}
	}
	return nil, nil
}

func attachOn(ctx context.Context, id volume.ID, below *os.File) (*loop.Device, error) {
	sector, err := unix.IoctlGetInt(int(below.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, fmt.Errorf("read the sector size of %s: %w", below.Name(), err)
	}
	return loop.Attach(ctx, loop.Config{
		Backing:   below,
		Tag:       stackedTag(id),
		BlockSize: sector,
		// Without it every block would be cached once more, and a reader would not
		// see what is written below.
		DirectIO: true,
		ReadOnly: true,
	})
}

// sweepStacked detaches the stacked devices of a volume that no mount shows.
func (s *Server) sweepStacked(id volume.ID) error {
	stacked, err := s.findStacked(id)
	if err != nil || len(stacked) == 0 {
		return err
	}
	infos, err := mount.List()
	if err != nil {
		return err
	}
	for _, l := range stacked {
		if s.isShown(infos, l) {
			continue
		}
		if err := detachStacked(l); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) isShown(infos []mount.Info, l loop.Info) bool {
	numbers := map[string]uint64{loopName(l): unix.Mkdev(l.Major, l.Minor)}
	for _, i := range infos {
		// Elsewhere are only copies of what is below kubelet's directory.
		if s.isBelow(i) && s.showsNode(i, numbers) {
			return true
		}
	}
	return false
}

// openNode opens a device node and makes sure that it is the device with this
// number.
func openNode(path string, flags int, number uint64) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		file.Close()
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != number {
		file.Close()
		return nil, fmt.Errorf("%w: %s is not block device %d:%d: remove the node, it is made anew", volume.ErrPrecondition, path, unix.Major(number), unix.Minor(number))
	}
	return file, nil
}
