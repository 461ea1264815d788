package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Option is an option of a filesystem, such as data=ordered. An empty Value makes
// it a flag.
type Option struct{ Key, Value string }

// Config says what New mounts and how.
type Config struct {
	// FSType is the kernel's name of the filesystem, such as "xfs".
	FSType string
	// Source is the block device, or whatever the filesystem wants.
	Source  string
	Options []Option
	// Attr is added to nosuid and nodev, which are always set.
	Attr Attr
	// ReadOnly makes the filesystem read-only, and with it every mount of it.
	ReadOnly bool
}

// Tree is a mount that is not, or not yet, attached anywhere. It lives as long as
// the Tree is open, and for ever after once it was attached.
//
// An open Tree, like every open file below a mount, keeps an attached mount busy.
type Tree struct {
	file *os.File
	what string
}

// New mounts a filesystem that is attached nowhere yet. The error has what the
// filesystem said about it. A source whose filesystem is mounted with the opposite
// ReadOnly is volume.ErrInUse; one that something else has for itself, such as a
// filesystem check, is volume.ErrBusy. A kernel that is out of memory, or was
// interrupted, is volume.ErrUnavailable; anything else the filesystem says is
// volume.ErrPrecondition.
//
// Mounting may replay a journal. When ctx ends first, New returns; the mount then
// vanishes as soon as the kernel has made it.
func New(ctx context.Context, c Config) (*Tree, error) {
	what := fmt.Sprintf("%s filesystem on %s", c.FSType, c.Source)
	return giveUp(ctx, "mount "+what, func() (*Tree, error) {
		fd, err := newMount(c)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", what, err)
		}
		return &Tree{file: os.NewFile(uintptr(fd), what), what: what}, nil
	}, func(t *Tree) { t.Close() })
}

func newMount(c Config) (int, error) {
	fsfd, err := unix.Fsopen(c.FSType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENODEV) {
			return -1, fmt.Errorf("%w: this kernel has no %s: %w", volume.ErrPrecondition, c.FSType, err)
		}
		return -1, fmt.Errorf("%w: %w", refusal(err, ""), err)
	}
	defer unix.Close(fsfd)
	explain := func(doing string, err error) (int, error) {
		said := kernelLog(fsfd)
		if said != "" {
			err = fmt.Errorf("%w (%s)", err, said)
		}
		return -1, fmt.Errorf("%w: %s: %w", refusal(err, said), doing, err)
	}
	if c.Source != "" {
		if err := unix.FsconfigSetString(fsfd, "source", c.Source); err != nil {
			return explain("set the source", err)
		}
	}
	if c.ReadOnly {
		if err := unix.FsconfigSetFlag(fsfd, "ro"); err != nil {
			return explain("set option ro", err)
		}
	}
	for _, o := range c.Options {
		if err := setOption(fsfd, o); err != nil {
			return explain("set option "+o.String(), err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return explain("the filesystem refused", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, int(c.Attr|secure))
	if err != nil {
		return explain("make the mount", err)
	}
	return fd, nil
}

// refusal is the sentinel for why something could not be mounted, by the error and
// by what the kernel said. EBUSY means two things, and fs/super.c
// (get_tree_bdev_flags) has words for one of them: a mount that would make a
// filesystem writable, or read-only, under those who have it mounted.
func refusal(err error, said string) error {
	switch {
	case errors.Is(err, unix.EBUSY) && strings.Contains(said, "would change RO state"):
		return volume.ErrInUse
	case errors.Is(err, unix.EBUSY):
		return volume.ErrBusy
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return volume.ErrUnavailable
	}
	return volume.ErrPrecondition
}

func setOption(fsfd int, o Option) error {
	if o.Value == "" {
		return unix.FsconfigSetFlag(fsfd, o.Key)
	}
	return unix.FsconfigSetString(fsfd, o.Key, o.Value)
}

// String is the option as mount(8) writes it.
func (o Option) String() string {
	if o.Value == "" {
		return o.Key
	}
	return o.Key + "=" + o.Value
}

// kernelLog reads the messages that the filesystem left on its context: one per
// read, the first letter its level.
func kernelLog(fsfd int) string {
	var messages []string
	buf := make([]byte, 4096)
	for range 32 {
		n, err := unix.Read(fsfd, buf)
		if err != nil || n <= 0 {
			break
		}
		messages = append(messages, strings.TrimSpace(string(buf[:n])))
	}
	return strings.Join(messages, "; ")
}

// Bind makes a second view of what source is open on: a directory with what is
// below it on the same filesystem (mounts below it are not taken along), or a
// file or device node. source may be open with O_PATH. The view of a directory
// gets nosuid and nodev. A read-only view of a device node does not stop writes to
// the device: bind a read-only device instead.
func Bind(source *os.File, readOnly bool) (*Tree, error) {
	what := "bind of " + source.Name()
	var st unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &st); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	fd, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	t := &Tree{file: os.NewFile(uintptr(fd), what), what: what}
	var attr Attr
	if readOnly {
		attr |= AttrReadOnly
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		attr |= secure
	}
	// Private, or an unmount of the source elsewhere would reach this view.
	if err := t.setAttr(&unix.MountAttr{Attr_set: uint64(attr), Propagation: unix.MS_PRIVATE}); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// SetAttr adds properties to the mount, before it is attached.
func (t *Tree) SetAttr(a Attr) error {
	change := &unix.MountAttr{Attr_set: uint64(a)}
	if a&atime != 0 {
		change.Attr_clr = uint64(atime)
	}
	return t.setAttr(change)
}

func (t *Tree) setAttr(change *unix.MountAttr) error {
	if err := unix.MountSetattr(int(t.file.Fd()), "", unix.AT_EMPTY_PATH, change); err != nil {
		return fmt.Errorf("set properties of the %s: %w", t.what, err)
	}
	return nil
}

// Root opens the root of the tree for reading, as ioctls want it. The caller
// closes it. An open root keeps the mount busy.
func (t *Tree) Root() (*os.File, error) {
	return reopen(t.file)
}

// SetReadOnly makes the whole filesystem of the tree read-only, wherever it is
// mounted. It is volume.ErrInUse while a file is open for writing.
func (t *Tree) SetReadOnly() error {
	fail := func(err error) error {
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: %w", volume.ErrInUse, err)
		}
		return fmt.Errorf("make the %s read-only: %w", t.what, err)
	}
	fsfd, err := unix.Fspick(int(t.file.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigSetFlag(fsfd, "ro"); err != nil {
		return fail(err)
	}
	if err := unix.FsconfigReconfigure(fsfd); err != nil {
		if said := kernelLog(fsfd); said != "" {
			err = fmt.Errorf("%w (%s)", err, said)
		}
		return fail(err)
	}
	return nil
}

// Attach puts the tree on top of target, where it stays when the Tree is closed.
// A directory cannot be put on a file nor the reverse: volume.ErrPrecondition.
func (t *Tree) Attach(target *Target) error {
	err := unix.MoveMount(int(t.file.Fd()), "", int(target.file.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err == nil {
		return nil
	}
	if isDir(t.file) != isDir(target.file) {
		err = fmt.Errorf("%w: one is a directory and the other is not: %w", volume.ErrPrecondition, err)
	}
	return fmt.Errorf("attach the %s at %s: %w", t.what, target.path, err)
}

func isDir(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// Close lets go of the tree. One that was attached nowhere is unmounted.
func (t *Tree) Close() error { return t.file.Close() }
