package node

import (
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/mount"
)

// showsAlready says whether the target surely shows the volume's filesystem as it was
// asked for. false means that it does not, or that the table of mounts must be read
// to know.
//
// Where kubelet republishes, it asks this of every volume each minute or so, and a
// node with hundreds of volumes has a table of thousands of mounts: to read it takes
// longer than everything else in such a call. What is asked here is a fixed number
// of system calls.
func (s *Server) showsAlready(p publication, dev *backend.Device) bool {
	staged, ok := s.viewAt(p.staging)
	if !ok || !staged.isRoot || staged.device != unix.Mkdev(dev.Major, dev.Minor) {
		return false
	}
	shown, ok := s.viewAt(p.target)
	if !ok || !shown.isRoot || shown.device != staged.device || shown.inode != staged.inode {
		return false
	}
	if !staged.readOnly {
		return shown.readOnly == p.readOnly
	}
	// A whole filesystem that is read-only makes every view of it look so: then the
	// mount itself says what the target was published as.
	return shown.attrKnown && (shown.attr&mount.AttrReadOnly != 0) == p.readOnly
}

// showsNodeAlready is showsAlready for the device of a raw block volume.
func (s *Server) showsNodeAlready(p publication, dev *backend.Device) bool {
	shown, ok := s.viewAt(p.target)
	if !ok || !shown.isRoot || !shown.isBlock {
		return false
	}
	if !p.readOnly {
		return shown.node == unix.Mkdev(dev.Major, dev.Minor)
	}
	if unix.Major(shown.node) != loopMajor {
		return false
	}
	l, found, err := findLoop(shown.node)
	return err == nil && found && l.Tag == stackedTag(p.id)
}

// look is what is seen at a path.
type look struct {
	// isRoot says that the path is where a mount is attached.
	isRoot        bool
	device, inode uint64
	// node is the number of the device, if isBlock.
	node    uint64
	isBlock bool
	// readOnly is that of the mount or of its filesystem; attr are the mount's own
	// properties, looked at only if readOnly and attrKnown.
	readOnly, attrKnown bool
	attr                mount.Attr
}

// viewAt looks at a path, as Root.Resolve writes it; ok is false if that cannot be
// done.
func (s *Server) viewAt(path string) (l look, ok bool) {
	t, err := s.root.OpenTarget(path)
	if err != nil {
		return look{}, false
	}
	defer t.Close()
	return lookAt(t)
}

func lookAt(t *mount.Target) (l look, ok bool) {
	fd := int(t.File().Fd())
	var st unix.Statx_t
	// What the kernel has in memory is enough, and a disk that hangs holds up nobody.
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_TYPE, &st) != nil {
		return look{}, false
	}
	var fs unix.Statfs_t
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || unix.Fstatfs(fd, &fs) != nil {
		return look{}, false
	}
	l = look{
		isRoot: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, device: unix.Mkdev(st.Dev_major, st.Dev_minor), inode: st.Ino,
		isBlock: st.Mode&unix.S_IFMT == unix.S_IFBLK, node: unix.Mkdev(st.Rdev_major, st.Rdev_minor),
		readOnly: fs.Flags&unix.ST_RDONLY != 0,
	}
	if l.readOnly {
		l.attr, l.attrKnown = mount.AttrOf(t.File())
	}
	return l, true
}
