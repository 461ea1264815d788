package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// maxPathLen is PATH_MAX without its NUL; maxNameLen is NAME_MAX.
const (
	maxPathLen = 4095
	maxNameLen = 255
)

// Root is a directory below which targets may be. Everything is done relative to
// its descriptor, and no symbolic link below it is ever followed.
type Root struct {
	file     *os.File
	given    string
	resolved string
}

// OpenRoot opens a directory as a root. Symbolic links on the way to it are
// followed, once, now: whoever names the root is trusted. It is
// volume.ErrPrecondition if there is no such directory.
func OpenRoot(dir string) (*Root, error) {
	fail := func(err error) (*Root, error) {
		return nil, fmt.Errorf("open %s as the root of targets: %w: %w", dir, volume.ErrPrecondition, err)
	}
	given, err := filepath.Abs(dir)
	if err != nil {
		return fail(err)
	}
	resolved, err := filepath.EvalSymlinks(given)
	if err != nil {
		return fail(err)
	}
	fd, err := unix.Open(resolved, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fail(err)
	}
	return &Root{file: os.NewFile(uintptr(fd), resolved), given: given, resolved: resolved}, nil
}

// Close lets go of the root.
func (r *Root) Close() error { return r.file.Close() }

// Path is the root without symbolic links, as mountinfo writes it.
func (r *Root) Path() string { return r.resolved }

// Resolve checks a path as CreateTarget does, and returns it as mountinfo writes
// it. Nothing needs to exist there.
func (r *Root) Resolve(path string) (string, error) {
	rel, err := r.relative(path)
	if err != nil {
		return "", err
	}
	file, err := r.open(rel, unix.O_PATH)
	switch {
	case err == nil:
		file.Close()
	case errors.Is(err, volume.ErrInvalid):
		return "", describe(path, err)
	}
	// Any other error, such as that of a dead filesystem mounted there, says
	// nothing about the path.
	return r.absolute(rel), nil
}

func (r *Root) absolute(rel string) string { return filepath.Join(r.resolved, rel) }

// relative checks the text of a path and cuts the root off, in the form in which
// it was given or in its resolved form.
func (r *Root) relative(path string) (string, error) {
	invalid := func(why string) (string, error) {
		shown := path
		if len(shown) > 200 {
			shown = shown[:200] + "..."
		}
		return "", fmt.Errorf("%w: path %q %s", volume.ErrInvalid, shown, why)
	}
	switch {
	case path == "":
		return invalid("is empty")
	case len(path) > maxPathLen:
		return invalid(fmt.Sprintf("is %d bytes long, the limit is %d", len(path), maxPathLen))
	case !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl):
		return invalid("has characters that are not text")
	case !filepath.IsAbs(path):
		return invalid("is not absolute")
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == ".." {
			return invalid(`has ".." in it`)
		}
		if len(name) > maxNameLen {
			return invalid(fmt.Sprintf("has a part of %d bytes, the limit is %d", len(name), maxNameLen))
		}
	}
	clean := filepath.Clean(path)
	for _, root := range []string{r.given, r.resolved} {
		rel, ok := strings.CutPrefix(clean, strings.TrimSuffix(root, "/")+"/")
		if ok && rel != "" {
			return rel, nil
		}
	}
	return invalid("is not below " + r.given)
}

// open opens what is at rel, following no link of any kind. A link on the way is
// volume.ErrInvalid; what is absent is volume.ErrNotFound.
func (r *Root) open(rel string, flags uint64) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for attempt := 0; ; attempt++ {
		fd, err := unix.Openat2(int(r.file.Fd()), rel, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), r.absolute(rel)), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN) && attempt < 100:
			// EAGAIN: something was renamed or mounted while the kernel looked.
			continue
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
			return nil, fmt.Errorf("%w: there is a symbolic link on the way: %w", volume.ErrInvalid, err)
		case errors.Is(err, unix.ENAMETOOLONG):
			return nil, fmt.Errorf("%w: %w", volume.ErrInvalid, err)
		case errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("%w: %w", volume.ErrNotFound, err)
		case errors.Is(err, unix.ENOTDIR):
			return nil, fmt.Errorf("%w: something on the way is not a directory: %w", volume.ErrPrecondition, err)
		}
		return nil, err
	}
}

// openParent opens the directory that holds rel, and gives the last name of rel.
// A directory inside a volume is volume.ErrInvalid: what is in there is the pod's.
func (r *Root) openParent(rel string) (*os.File, string, error) {
	dir, name := filepath.Split(rel)
	if dir == "" {
		dir = "."
	}
	parent, err := r.open(filepath.Clean(dir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, name, err
	}
	if err := r.checkOutside(parent); err != nil {
		parent.Close()
		return nil, name, err
	}
	return parent, name, nil
}

// checkOutside is volume.ErrInvalid if dir is on a loop device other than the
// root's own. RESOLVE_NO_XDEV would be simpler, but parts of kubelet's directory
// may be filesystems of their own.
func (r *Root) checkOutside(dir *os.File) error {
	const loopMajor = 7 // kernel, Documentation/admin-guide/devices.txt
	var root, st unix.Stat_t
	if err := errors.Join(unix.Fstat(int(r.file.Fd()), &root), unix.Fstat(int(dir.Fd()), &st)); err != nil {
		return fmt.Errorf("look at %s: %w", dir.Name(), err)
	}
	if st.Dev != root.Dev && unix.Major(st.Dev) == loopMajor {
		return fmt.Errorf("%w: %s is inside a volume", volume.ErrInvalid, dir.Name())
	}
	return nil
}

// reopen opens for reading what file, which may be open with O_PATH, is open on.
func reopen(file *os.File) (*os.File, error) {
	fd, err := unix.Open(procPath(file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s for reading: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// procPath is a path that leads to exactly what file is open on, whatever was
// renamed since.
func procPath(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }

func describe(path string, err error) error { return fmt.Errorf("target %s: %w", path, err) }
