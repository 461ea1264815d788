package local

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// TestCheckLeavesLoopDevicesOfOthersAlone has a loop device whose path is in the
// pool, and whose file is not: so looks the volume of a driver in another container
// of this kernel. Nobody must be told to detach it.
func TestCheckLeavesLoopDevicesOfOthersAlone(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	dir, stray := b.inPool("dir"), b.inPool("dir", "stray.img")
	b.must(os.Mkdir(dir, 0o700))
	b.must(os.WriteFile(stray, make([]byte, volume.MiB), 0o600))
	f, err := os.OpenFile(stray, os.O_RDWR, 0)
	b.must(err)
	dev, err := loop.Attach(t.Context(), loop.Config{Backing: f, Tag: tagOf(volume.NewID(volume.KindVolume, b.poolNamed("default").id, "gone")), BlockSize: 4096})
	b.must(err)
	b.mustFind("its file is here", severityProblem, dev.Path(), "losetup -d "+dev.Path())

	b.must(unix.Mount("none", dir, "tmpfs", 0, ""))
	b.mustBeWell("there is no file of this path here")
	b.must(os.WriteFile(stray, nil, 0o600))
	b.mustBeWell("there is another file of this path here")
	b.must(unix.Unmount(dir, 0))

	b.must(os.Remove(stray))
	b.mustFind("its file was deleted", severityProblem, dev.Path(), "losetup -d "+dev.Path())
	b.must(errors.Join(dev.Detach(), f.Close()))
	b.mustBeWell("it is detached")
}
