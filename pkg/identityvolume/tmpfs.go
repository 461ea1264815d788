package identityvolume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// source is what mountinfo names as the source of our mounts.
const source = "holdfast-identity"

// Limits of a volume's tmpfs. There are two sets of files in it for a moment, and every
// file of a few bytes takes a page.
const (
	tmpfsSize   = "4m"
	tmpfsInodes = 4*payload.MaxFiles + 16
)

// isPublished says whether the top mount at a target is one of ours. Something else
// that is mounted there is volume.ErrExists. It does not read the table of all mounts
// unless something is mounted there that may not be ours.
func (s *Server) isPublished(target string) (bool, error) {
	t, err := s.cfg.Kubelet.OpenTarget(target)
	if errors.Is(err, volume.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer t.Close()
	fd := int(t.File().Fd())
	var st unix.Statx_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO, &st), unix.Fstatfs(fd, &fs)); err != nil {
		return false, fmt.Errorf("look at %s: %w", target, err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, nil
	}
	if h := s.find(target); h != nil && fs.Type == unix.TMPFS_MAGIC && h.device == unix.Mkdev(st.Dev_major, st.Dev_minor) {
		return true, nil
	}
	infos, err := mount.List()
	if err != nil {
		return false, err
	}
	layers := mount.At(infos, target)
	if len(layers) == 0 {
		return false, nil
	}
	if top := layers[len(layers)-1]; top.FSType != "tmpfs" || top.Source != source {
		return false, fmt.Errorf("%w: %s of %s is mounted at %s already: unmount that first", volume.ErrExists, top.FSType, top.Source, target)
	}
	return true, nil
}

// mount makes the tmpfs of a volume with its first files, and attaches it at the
// target. There is no target before everything is in it.
func (s *Server) mount(ctx context.Context, h *held, files []payload.File, set payload.Set) error {
	tree, err := s.newTmpfs(ctx, h.gid)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := write(tree, files, h.gid, set); err != nil {
		return err
	}
	root, err := tree.Root()
	if err != nil {
		return err
	}
	device, err := deviceOf(root)
	if err := errors.Join(err, root.Close(), tree.SetAttr(mount.AttrReadOnly|mount.AttrNoExec)); err != nil {
		return err
	}
	t, err := s.cfg.Kubelet.CreateTarget(h.target, mount.Dir)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := tree.Attach(t); err != nil {
		return err
	}
	h.device = device
	return nil
}

// deviceOf is the number by which a filesystem is known while it is mounted anywhere.
func deviceOf(file *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return 0, fmt.Errorf("look at %s: %w", file.Name(), err)
	}
	return st.Dev, nil
}

// newTmpfs is a tmpfs that is never swapped out, if the kernel knows how (6.3).
func (s *Server) newTmpfs(ctx context.Context, gid int) (*mount.Tree, error) {
	cfg := mount.Config{FSType: "tmpfs", Source: source, Options: []mount.Option{
		{Key: "size", Value: tmpfsSize}, {Key: "nr_inodes", Value: strconv.Itoa(tmpfsInodes)},
		{Key: "mode", Value: "0751"}, {Key: "uid", Value: "0"}, {Key: "gid", Value: strconv.Itoa(gid)},
	}}
	locked := cfg
	locked.Options = append([]mount.Option{{Key: s.noswap}}, cfg.Options...)
	tree, err := mount.New(ctx, locked)
	if errors.Is(err, unix.EINVAL) {
		// The kernel does not know the option; if it is another one, this fails too.
		tree, err = mount.New(ctx, cfg)
		if err == nil && s.cfg.Swappable != nil {
			s.swappable.Do(s.cfg.Swappable)
		}
	}
	return tree, err
}

// writer opens the root of what is mounted at a target for changing it. The caller
// closes both.
func (s *Server) writer(target string) (*mount.Tree, error) {
	t, err := s.cfg.Kubelet.OpenTarget(target)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return mount.Writable(t)
}

func write(tree *mount.Tree, files []payload.File, gid int, set payload.Set) error {
	return within(tree, func(dir payload.Dir) error { return dir.Write(files, gid, set) })
}

func within(tree *mount.Tree, do func(payload.Dir) error) error {
	root, err := tree.Root()
	if err != nil {
		return err
	}
	return errors.Join(do(payload.In(root)), root.Close())
}

// replace gives a published volume new files. The mount that the pod has stays.
func (s *Server) replace(target string, files []payload.File, gid int, set payload.Set) error {
	if published, err := s.isPublished(target); err != nil || !published {
		return errors.Join(fmt.Errorf("%w: nothing is mounted at %s any more: it is published anew at kubelet's next call", volume.ErrUnavailable, target), err)
	}
	tree, err := s.writer(target)
	if err != nil {
		return err
	}
	defer tree.Close()
	return write(tree, files, gid, set)
}

// look opens what is published at a target for reading. The caller closes it.
func (s *Server) look(target string) (*os.File, error) {
	t, err := s.cfg.Kubelet.OpenTarget(target)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return t.Open()
}

func (s *Server) holds(target string, files []payload.File, gid int) bool {
	root, err := s.look(target)
	if err != nil {
		return false
	}
	defer root.Close()
	return payload.In(root).Holds(files, gid)
}

// whole says whether there are files at a target, or what is left of them: not after
// they were wiped.
func (s *Server) whole(target string) bool {
	root, err := s.look(target)
	if err != nil {
		return true // not known
	}
	defer root.Close()
	_, ok := payload.In(root).Current()
	return ok
}

// blank makes every file at a target an empty one, in place.
func (s *Server) blank(target string) error {
	if published, err := s.isPublished(target); err != nil || !published {
		return errors.Join(fmt.Errorf("%w: nothing is mounted at %s any more", volume.ErrUnavailable, target), err)
	}
	tree, err := s.writer(target)
	if err != nil {
		return err
	}
	defer tree.Close()
	return within(tree, payload.Dir.Empty)
}

// deviceAt is the number of the filesystem at a target; 0 if that cannot be seen.
func (s *Server) deviceAt(target string) uint64 {
	t, err := s.cfg.Kubelet.OpenTarget(target)
	if err != nil {
		return 0
	}
	defer t.Close()
	device, err := deviceOf(t.File())
	if err != nil {
		return 0
	}
	return device
}

// endAt is when the files at a target end to be valid; zero if that is not known.
func (s *Server) endAt(target string) time.Time {
	root, err := s.look(target)
	if err != nil {
		return time.Time{}
	}
	defer root.Close()
	set, _ := payload.In(root).Current()
	return set.Expires
}

// emptied says whether the files at a target are all empty, as an earlier driver may
// have left them.
func (s *Server) emptied(target string) bool {
	root, err := s.look(target)
	if err != nil {
		return false
	}
	defer root.Close()
	return payload.In(root).Emptied()
}
