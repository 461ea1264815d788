package lifecycle

import (
	"os"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// disk stands for a disk of the machine that its fstab mounts.
type disk struct {
	site   *site
	fsType string
	base   string // a directory of its own
	file   string
	dir    string // where it belongs
}

// newDisk makes a disk with btrfs and mounts it. It goes with the box.
func newDisk(s *site, name string, size volume.Bytes) *disk {
	s.t.Helper()
	d := formatDisk(s, "btrfs", filepath.Join(s.box.Dir, name), size)
	d.mount(d.dir)
	return d
}

// formatDisk makes a disk.
func formatDisk(s *site, fsType, base string, size volume.Bytes) *disk {
	s.t.Helper()
	// A loop on a file of this name goes with its mount (package teardown).
	d := &disk{site: s, fsType: fsType, base: base, file: filepath.Join(base, "pool.img"), dir: filepath.Join(base, "disk")}
	s.must(os.MkdirAll(d.dir, 0o700))
	s.must(os.WriteFile(d.file, nil, 0o600))
	s.must(os.Truncate(d.file, int64(size)))
	_, err := command.New().Run(s.ctx, "mkfs."+fsType, "-q", d.file)
	s.must(err)
	return d
}

// mount mounts the disk, at its own place or at that of another.
func (d *disk) mount(dir string) {
	s := d.site
	s.t.Helper()
	f, err := os.OpenFile(d.file, os.O_RDWR, 0)
	s.must(err)
	defer f.Close()
	dev, err := loop.Attach(s.ctx, loop.Config{Backing: f, Tag: "lifecycle-disk", BlockSize: 4096, DirectIO: true})
	s.must(err)
	defer dev.Close()
	tree, err := mount.New(s.ctx, mount.Config{FSType: d.fsType, Source: dev.Path()})
	s.must(err)
	defer tree.Close()
	root, err := mount.OpenRoot(filepath.Dir(dir))
	s.must(err)
	defer root.Close()
	target, err := root.CreateTarget(dir, mount.Dir)
	s.must(err)
	defer target.Close()
	s.must(tree.Attach(target))
}
