package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

// Who imports under the same name meanwhile is told to wait, in words that he knows.
// And reading back is progress too.
func TestTwoImportsOfOneName(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	img := noisyImage(t, 3*volume.MiB)
	var second error
	var last, all volume.Bytes
	b.imports(ImportSpec{Name: "photos", Source: img, Progress: func(done, total volume.Bytes) {
		last, all = done, total
		if second == nil {
			_, second = b.Import(t.Context(), ImportSpec{Name: "photos", Source: img})
		}
	}})
	if !errors.Is(second, volume.ErrBusy) || !strings.Contains(second.Error(), `import of "photos"`) || !strings.Contains(second.Error(), "wait") {
		t.Errorf("the second: %v", second)
	}
	if last != all || all != 6*volume.MiB {
		t.Errorf("the last progress was %s of %s", last, all)
	}
}

// Attributes that ext4 has no place for are not a matter of the volume's size.
func TestAttributesThatDoNotFitNameTheWayOut(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	dir := scratch.XFS(t, 300*volume.MiB)
	path := filepath.Join(dir, "file")
	b.must(os.WriteFile(path, nil, 0o600))
	b.must(unix.Setxattr(path, "user.large", make([]byte, 20000), 0))
	spec := ImportSpec{Name: "a", Source: opened(t, dir)}
	b.refuses(spec, volume.ErrOutOfRange, "--fs-type=xfs")
	if _, err := b.Import(t.Context(), spec); err == nil || strings.Contains(err.Error(), "larger one") {
		t.Errorf("it asks for what does not help: %v", err)
	}
	spec.Format.FSType = volume.XFS
	b.must(b.DeleteVolume(t.Context(), b.imports(spec).Volume.ID))
}
