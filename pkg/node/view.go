package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// topAt is the mount that is seen at a path, as Root.Resolve writes it.
func topAt(infos []mount.Info, path string) (top mount.Info, ok bool) {
	layers := mount.At(infos, path)
	if len(layers) == 0 {
		return mount.Info{}, false
	}
	return layers[len(layers)-1], true
}

// shows says whether a mount is the whole filesystem of a device.
func shows(i mount.Info, dev *backend.Device) bool {
	return i.Major == dev.Major && i.Minor == dev.Minor && i.Root == "/"
}

// readOnlyView says whether this mount, whatever its filesystem, refuses writes.
// A filesystem that went read-only after an error does not count: what was
// published for writing stays what it was.
func readOnlyView(i mount.Info) bool { return slices.Contains(i.Options, "ro") }

// lookup is backend.Lookup to which a volume that is gone is one that is not
// attached. The caller closes the device.
func (s *Server) lookup(ctx context.Context, id volume.ID) (*backend.Device, bool, error) {
	dev, ok, err := s.backend.Lookup(ctx, id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil, false, nil
	}
	return dev, ok, err
}

// deviceAt is the number of the block device whose node is seen at a path below
// the root, as unix.Mkdev makes it; ok is false if there is something else.
func (s *Server) deviceAt(path string) (number uint64, ok bool, err error) {
	t, err := s.root.OpenTarget(path)
	if err != nil {
		return 0, false, err
	}
	defer t.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(t.File().Fd()), &st); err != nil {
		return 0, false, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Rdev, st.Mode&unix.S_IFMT == unix.S_IFBLK, nil
}

// usersOf are the paths below kubelet's directory at which the volume is seen,
// except those in without: mounts of its filesystem or of a part of it (subPath),
// and binds of its device node or of a read-only loop stacked on it.
//
// Mounts elsewhere are left out: where kubelet's directory is itself a bind
// mount, the kernel shows everything twice.
func (s *Server) usersOf(infos []mount.Info, dev *backend.Device, stacked []loop.Info, without ...string) []string {
	numbers := map[string]uint64{filepath.Base(dev.Path): unix.Mkdev(dev.Major, dev.Minor)}
	for _, l := range stacked {
		numbers[loopName(l)] = unix.Mkdev(l.Major, l.Minor)
	}
	var users []string
	for _, i := range infos {
		if !s.isBelow(i) || slices.Contains(without, i.Path) || slices.Contains(users, i.Path) {
			continue
		}
		if i.Major == dev.Major && i.Minor == dev.Minor || s.showsNode(i, numbers) {
			users = append(users, i.Path)
		}
	}
	return users
}

// isBelow says whether a mount is below kubelet's directory.
func (s *Server) isBelow(i mount.Info) bool { return strings.HasPrefix(i.Path, s.root.Path()+"/") }

// showsNode says whether a mount is the bind of one of these device nodes. The
// name in mountinfo is only a hint, so that not every mount must be opened. One
// that cannot be looked at counts: a device too many is kept, rather than taken
// from somebody who uses it.
func (s *Server) showsNode(i mount.Info, numbers map[string]uint64) bool {
	want, ok := numbers[nodeName(i)]
	if !ok {
		return false
	}
	got, isBlock, err := s.deviceAt(i.Path)
	if err != nil {
		return !errors.Is(err, volume.ErrNotFound)
	}
	return isBlock && got == want
}

// nodeName is the name that a device node had when it was bound. The kernel marks
// one that was removed meanwhile (fs/d_path.c, prepend_path); the bind still works.
func nodeName(i mount.Info) string {
	return filepath.Base(strings.TrimSuffix(i.Root, "//deleted"))
}

func loopName(l loop.Info) string { return fmt.Sprintf("loop%d", l.Index) }

// some shortens a list of paths for an error text.
func some(paths []string) string {
	const most = 3
	if len(paths) <= most {
		return strings.Join(paths, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(paths[:most], ", "), len(paths)-most)
}
