package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Kind is what a target is.
type Kind int

// The kinds of target: a filesystem is mounted on a directory, a device on a
// file.
const (
	Dir Kind = iota
	File
)

func (k Kind) String() string {
	if k == File {
		return "file"
	}
	return "directory"
}

// Target is a place for a mount, held open with O_PATH: what happens to its path
// does not change where the mount goes.
type Target struct {
	file *os.File
	path string
}

// File is the open target, which the Target owns.
func (t *Target) File() *os.File { return t.file }

// Path is the target's path as mountinfo writes it.
func (t *Target) Path() string { return t.path }

// Open opens the target for reading, as ioctls want it. The caller closes it.
func (t *Target) Open() (*os.File, error) { return reopen(t.file) }

// Close lets go of the target.
func (t *Target) Close() error { return t.file.Close() }

// OpenTarget opens what is at an absolute path below the root: the top mount if
// there are some. It is volume.ErrNotFound if nothing is there, and
// volume.ErrInvalid as for CreateTarget.
func (r *Root) OpenTarget(path string) (*Target, error) {
	rel, err := r.relative(path)
	if err != nil {
		return nil, err
	}
	file, err := r.open(rel, unix.O_PATH)
	if err != nil {
		return nil, describe(path, err)
	}
	return &Target{file: file, path: r.absolute(rel)}, nil
}

// CreateTarget opens the target at an absolute path below the root, and makes it
// if it is absent: a directory of mode 0750 or a file of mode 0640. The parent is
// the caller's to make (CSI spec, NodePublishVolume); one level that is missing is
// made too.
//
// It is volume.ErrInvalid if the path leads outside the root or into a volume, has
// a symbolic link, "..", a control character or an over-long part in it, and
// volume.ErrPrecondition if something of another kind is there, or if more than
// one level is missing.
func (r *Root) CreateTarget(path string, kind Kind) (*Target, error) {
	rel, err := r.relative(path)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Target, error) { return nil, describe(path, err) }
	if err := r.create(rel, kind); err != nil {
		return fail(err)
	}
	file, err := r.open(rel, unix.O_PATH)
	if err != nil {
		return fail(err)
	}
	if err := checkKind(file, kind); err != nil {
		file.Close()
		return fail(err)
	}
	return &Target{file: file, path: r.absolute(rel)}, nil
}

func (r *Root) create(rel string, kind Kind) error {
	parent, name, err := r.openParent(rel)
	if errors.Is(err, volume.ErrNotFound) {
		if parent, err = r.createParent(rel); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	if kind == Dir {
		err = unix.Mkdirat(int(parent.Fd()), name, 0o750)
	} else {
		// mknod of a regular file is creat that fails if something is there, also
		// a link.
		err = unix.Mknodat(int(parent.Fd()), name, unix.S_IFREG|0o640, 0)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make the %s: %w", kind, err)
	}
	return nil
}

func (r *Root) createParent(rel string) (*os.File, error) {
	dir := filepath.Dir(rel)
	grand, name, err := r.openParent(dir)
	if errors.Is(err, volume.ErrNotFound) {
		// Not as ErrNotFound, which to the caller would mean the volume.
		return nil, fmt.Errorf("%w: the parent directory is missing, and so is its own: make them", volume.ErrPrecondition)
	}
	if err != nil {
		return nil, err
	}
	defer grand.Close()
	if err := unix.Mkdirat(int(grand.Fd()), name, 0o750); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make the parent directory: %w", err)
	}
	return r.open(dir, unix.O_PATH|unix.O_DIRECTORY)
}

func checkKind(file *os.File, kind Kind) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return fmt.Errorf("look at what is there: %w", err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir != (kind == Dir) {
		return fmt.Errorf("%w: it is there and it is not a %s; remove it", volume.ErrPrecondition, kind)
	}
	return nil
}
