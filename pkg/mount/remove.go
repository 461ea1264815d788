package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Unmount removes every mount at an absolute path below the root, from the top
// layer down, in this mount namespace. Nothing mounted there is success. What is
// mounted is read from mountinfo, so that a filesystem that answers every call
// with an error is unmounted too. It is volume.ErrInUse while somebody has a file
// open below the mount, and has not let go of it in a moment: those who only look,
// as a call for statistics does, are waited for.
//
// When ctx ends before the kernel has finished, Unmount returns with its error;
// the kernel goes on, and the same call made later finds what is left.
func (r *Root) Unmount(ctx context.Context, path string) error {
	resolved, err := r.Resolve(path)
	if err != nil {
		return err
	}
	for last := -1; ; {
		infos, err := List()
		if err != nil {
			return err
		}
		layers := At(infos, resolved)
		if len(layers) == 0 {
			return nil
		}
		if len(layers) == last {
			return fmt.Errorf("%w: unmount %s: %d mounts are hidden below another mount, unmount that first", volume.ErrPrecondition, resolved, last)
		}
		last = len(layers)
		if err := r.unmountPatiently(ctx, resolved); err != nil {
			return err
		}
	}
}

// lookers is how long those who only look at a mount may take to let go of it.
const lookers = 100 * time.Millisecond

func (r *Root) unmountPatiently(ctx context.Context, resolved string) error {
	for end := time.Now().Add(lookers); ; time.Sleep(2 * time.Millisecond) {
		err := r.unmountTop(ctx, resolved)
		if !errors.Is(err, volume.ErrInUse) || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
	}
}

// unmountTop removes the top layer at a resolved path. Nothing mounted is success:
// somebody else was faster.
func (r *Root) unmountTop(ctx context.Context, resolved string) error {
	doing := "unmount " + resolved
	rel, err := r.relative(resolved)
	if err != nil {
		return err
	}
	_, err = giveUp(ctx, doing, func() (struct{}, error) {
		// Opened in here, where it is closed whether or not anybody still waits.
		parent, name, err := r.openParent(rel)
		if err != nil {
			return struct{}{}, fmt.Errorf("%s: %w", doing, err)
		}
		defer parent.Close()
		// There is no umount by descriptor: this path goes through the parent's,
		// and its last part is not followed if it is a link.
		err = unix.Unmount(procPath(parent)+"/"+name, unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return struct{}{}, nil
		case errors.Is(err, unix.EBUSY):
			return struct{}{}, fmt.Errorf("%w: %s: a file is open below it, or something is mounted there: %w", volume.ErrInUse, doing, err)
		case err != nil:
			return struct{}{}, fmt.Errorf("%s: %w", doing, err)
		}
		return struct{}{}, nil
	}, func(struct{}) {})
	return err
}

// RemoveTarget removes every mount at an absolute path below the root, as Unmount
// does, and then the empty directory or file that they were on. A target that is
// absent is success. A directory or file with content is left alone:
// volume.ErrPrecondition, because somebody wrote to a place where nothing was
// mounted.
func (r *Root) RemoveTarget(ctx context.Context, path string) error {
	if err := r.Unmount(ctx, path); err != nil {
		return err
	}
	rel, err := r.relative(path)
	if err != nil {
		return err
	}
	parent, name, err := r.openParent(rel)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return describe(path, err)
	}
	defer parent.Close()
	if err := removeEmpty(parent, name); err != nil {
		return describe(path, err)
	}
	return nil
}

func removeEmpty(parent *os.File, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at what is there: %w", err)
	}
	flags := 0
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		flags = unix.AT_REMOVEDIR
	case unix.S_IFREG:
		if st.Size > 0 {
			return fmt.Errorf("%w: the file has %d bytes in it although nothing was mounted on it; look at it and remove it", volume.ErrPrecondition, st.Size)
		}
	case unix.S_IFLNK:
		return fmt.Errorf("%w: it is a symbolic link", volume.ErrInvalid)
	default:
		return fmt.Errorf("%w: it is neither a directory nor a file; remove it", volume.ErrPrecondition)
	}
	err = unix.Unlinkat(int(parent.Fd()), name, flags)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: the directory has files in it although nothing is mounted on it; look at them and remove it: %w", volume.ErrPrecondition, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: something was mounted on it meanwhile: %w", volume.ErrInUse, err)
	}
	return err
}
