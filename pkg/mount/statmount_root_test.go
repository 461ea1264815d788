package mount_test

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// TestTheMountItselfSaysWhatItIs compares with the table of mounts, also for a
// filesystem that is read-only as a whole.
func TestTheMountItselfSaysWhatItIs(t *testing.T) {
	roottest.Require(t)
	// A kernel that does not know the call says so; one that knows it must be asked.
	_, _, errno := unix.Syscall(unix.SYS_STATMOUNT, 0, 0, 0)
	if errors.Is(errno, unix.ENOSYS) {
		t.Skip("this kernel has no statmount(2): it is older than Linux 6.8")
	}
	dir := tempDir(t)
	root := openRoot(t, dir)
	for name, attr := range map[string]mount.Attr{"plain": 0, "read-only": mount.AttrReadOnly, "no programs": mount.AttrReadOnly | mount.AttrNoExec | mount.AttrNoAtime} {
		for _, whole := range []bool{false, true} {
			path := dir + "/" + name
			tree, err := mount.New(t.Context(), mount.Config{FSType: "tmpfs", Source: "test", Attr: attr})
			if err != nil {
				t.Fatal(err)
			}
			if whole {
				if err := tree.SetReadOnly(); err != nil {
					t.Fatal(err)
				}
			}
			attachTree(t, root, tree, path, mount.Dir)
			if err := tree.Close(); err != nil {
				t.Fatal(err)
			}
			target, err := root.OpenTarget(path)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := mount.AttrOf(target.File())
			target.Close()
			info := layers(t, path)[0]
			for option, bit := range map[string]mount.Attr{
				"ro": mount.AttrReadOnly, "noexec": mount.AttrNoExec, "nosuid": mount.AttrNoSUID, "nodev": mount.AttrNoDev, "noatime": mount.AttrNoAtime,
			} {
				if want := slices.Contains(info.Options, option); !ok || (got&bit == bit) != want {
					t.Errorf("%s, whole filesystem read-only %v: %s is %v, %v; the table of mounts says %v", name, whole, option, got&bit == bit, ok, want)
				}
			}
			if err := root.RemoveTarget(t.Context(), path); err != nil {
				t.Fatal(err)
			}
		}
	}
}
