package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// disk is a disk of the node that can be pulled out: a loop device on a sparse file.
type disk struct {
	s    *scene
	file string
	dev  *loop.Device // nil while it is out
}

// newDisk plugs a blank disk in.
func newDisk(s *scene, size volume.Bytes) *disk {
	s.t.Helper()
	d := &disk{s: s, file: filepath.Join(s.t.TempDir(), "disk")}
	s.must(os.WriteFile(d.file, nil, 0o600))
	s.must(os.Truncate(d.file, int64(size)))
	d.plug()
	return d
}

func (d *disk) plug() {
	s := d.s
	s.t.Helper()
	f, err := os.OpenFile(d.file, os.O_RDWR, 0)
	s.must(err)
	defer f.Close()
	d.dev, err = loop.Attach(context.Background(), loop.Config{Backing: f, Tag: "e2e-disk", BlockSize: 4096})
	s.must(err)
}

// unplug pulls the disk out, if it is in. Nothing may have it mounted.
func (d *disk) unplug() error {
	if d.dev == nil {
		return nil
	}
	index := d.dev.Index()
	err := d.dev.Close() // it has autoclear
	d.dev = nil
	for end := time.Now().Add(10 * time.Second); err == nil && attached(index); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("the disk is still mounted somewhere")
		}
	}
	return err
}

// attached reports whether the kernel has a file behind a loop device.
func attached(index int) bool {
	loops, err := loop.List()
	if err != nil {
		return true
	}
	for _, l := range loops {
		if l.Index == index {
			return l.Tag == "e2e-disk"
		}
	}
	return false
}

// pull unmounts a pool's disk and pulls it out. No driver may run.
func (d *disk) pull(dir string) error {
	err := unix.Unmount(dir, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, d.unplug())
}

// forgetDisk makes the driver, the node and the Node object what they were before
// the disk was a pool.
func (s *scene) forgetDisk(d *disk, pool string, original corev1.PodTemplateSpec) {
	s.t.Helper()
	s.withoutDriver(original, func() {
		dir := filepath.Join(cluster.PoolsDir, pool)
		s.must(d.pull(dir))
		s.must(os.RemoveAll(dir))
		for _, path := range s.registrationsOf(pool) {
			s.must(os.Remove(path))
			s.unlabelNode("topology.csi.holdfast.dev/pool-" + strings.TrimSuffix(filepath.Base(path), ".json"))
		}
	})
}
