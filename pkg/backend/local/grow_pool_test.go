package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// sizes are how large the image, its loop device and the filesystem of a pool are.
func (b *bench) sizes(name string) (image, device, filesystem volume.Bytes) {
	b.t.Helper()
	p := b.poolNamed(name)
	st, err := os.Stat(filepath.Join(b.dir, name, ImageFile))
	if err != nil {
		b.t.Fatal(err)
	}
	switch s := p.store.(type) {
	case *btrfsStore:
		var sp space
		sp, err = s.space()
		filesystem = sp.Total
		if err == nil {
			device, err = s.deviceSize()
		}
	case *xfsStore:
		filesystem, err = s.size()
		if err == nil {
			device, err = s.deviceSize()
		}
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return volume.Bytes(st.Size()), device, filesystem
}

func (b *bench) mustHave(name string, size volume.Bytes) {
	b.t.Helper()
	if image, device, filesystem := b.sizes(name); image != size || device != size || filesystem != size {
		b.t.Errorf("the image has %s, its device %s, the filesystem %s, want %s", image, device, filesystem, size)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(b.dir, name, ImageFile), &st); err != nil || volume.Bytes(st.Blocks)*512 < size {
		b.t.Errorf("of the image %s are allocated, %v", volume.Bytes(st.Blocks)*512, err)
	}
}

func TestAPoolImageGrowsWithItsFlag(t *testing.T) { onEach(t, testAPoolImageGrowsWithItsFlag) }

func testAPoolImageGrowsWithItsFlag(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, 640*volume.MiB, nil, "default")
	var h heard
	b.cfg.Notice = h.notice
	room, err := b.poolNamed("default").room()
	if err != nil {
		t.Fatal(err)
	}
	b.cfg.Pools[0].Size = volume.GiB
	b.reopen()
	b.mustHave("default", volume.GiB)
	if said := h.about(PoolGrown); len(said) != 1 || !strings.Contains(said[0], "from 640 MiB to 1 GiB") {
		t.Errorf("it said %q", h.said)
	}
	if now, err := b.poolNamed("default").room(); err != nil || now < room+256*volume.MiB {
		t.Errorf("there was room for %s and is for %s, %v", room, now, err)
	}
	b.reopen()
	if len(h.about(PoolGrown)) != 1 {
		t.Errorf("it grew again: %q", h.said)
	}
	b.cfg.Pools[0].Size = 640 * volume.MiB
	b.reopen()
	b.mustHave("default", volume.GiB)
	if said := h.about(PoolSizeKept); len(said) != 1 || !strings.Contains(said[0], "not made smaller") {
		t.Errorf("it said %q", h.said)
	}
	// More than the host has is refused, and nothing is lost.
	b.cfg.Pools[0].Size = 1 << 50
	b.reopen()
	b.mustHave("default", volume.GiB)
	if said := h.about(PoolSizeKept); len(said) != 2 || !strings.Contains(said[1], "evicting pods") {
		t.Errorf("it said %q", h.said)
	}
}

func TestGrowingGoesOnAfterACrash(t *testing.T) { onEach(t, testGrowingGoesOnAfterACrash) }

func testGrowingGoesOnAfterACrash(t *testing.T, fsType string) {
	for _, step := range []string{"grow-pool/allocated", "grow-pool/lengthened", "grow-pool/refreshed", "grow-pool/grown"} {
		for _, reboot := range []bool{false, true} {
			if step == "grow-pool/refreshed" && reboot {
				continue // nothing is left of it, and the next attachment has the size
			}
			t.Run(fmt.Sprintf("%s, reboot %t", step, reboot), func(t *testing.T) { growAfterACrash(t, fsType, step, reboot) })
		}
	}
}

func growAfterACrash(t *testing.T, fsType, step string, reboot bool) {
	crash := errors.New("crash")
	b := newBenchOn(t, fsType, 600*volume.MiB, nil, "default")
	b.cfg.Pools[0].Size = 700 * volume.MiB
	met := 0
	b.cfg.Fault = func(s string) error {
		if s == step {
			met++
			return crash
		}
		return nil
	}
	b.reopen()
	if met == 0 {
		t.Errorf("%s: the step was not taken", step)
	}
	if reboot {
		if err := errors.Join(b.Close(), teardown.Below(context.Background(), b.dir)); err != nil {
			t.Fatal(err)
		}
		b.open()
	}
	b.cfg.Fault = nil
	b.reopen()
	b.mustHave("default", 700*volume.MiB)
}

// An allocation that fails half way leaves the image and the host as they were.
func TestAPoolImageGrowsAllOrNothing(t *testing.T) {
	b := newBench(t, 600*volume.MiB, nil, "default")
	host := filepath.Join(b.dir, "host")
	if err := os.Mkdir(host, 0o700); err != nil {
		t.Fatal(err)
	}
	d := newDrive(t, b.dir, "drive", 256*volume.MiB)
	if _, err := b.cfg.Runner.Run(t.Context(), "mkfs.ext4", "-q", d.dev.Path()); err != nil {
		t.Fatal(err)
	}
	d.must(unix.Mount(d.dev.Path(), host, "ext4", 0, ""))
	t.Cleanup(func() { d.must(unix.Unmount(host, 0)) })
	img, err := os.Create(filepath.Join(host, ImageFile))
	d.must(err)
	defer img.Close()
	d.must(unix.Fallocate(int(img.Fd()), 0, 0, int64(64*volume.MiB)))
	var before, after unix.Statfs_t
	d.must(unix.Fstatfs(int(img.Fd()), &before))
	// checkHostRoom looks at what is free; between it and the allocation somebody
	// else may be faster.
	b.cfg.HostReserve = -10
	small := &Backend{cfg: b.cfg}
	if err := small.allocateMore(img, 64*volume.MiB, 512*volume.MiB); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	d.must(unix.Syncfs(int(img.Fd())))
	d.must(unix.Fstatfs(int(img.Fd()), &after))
	if st, err := img.Stat(); err != nil || st.Size() != int64(64*volume.MiB) || after.Bfree+100 < before.Bfree {
		t.Errorf("the image has %d bytes, and %d blocks are free, %d before; %v", st.Size(), after.Bfree, before.Bfree, err)
	}
}

// What a crash left allocated beyond the end of the image is not asked of the host a
// second time, and given back when it is not enough or not wanted any more.
func TestAPoolImageGrowsOnATightHostAfterACrash(t *testing.T) {
	roottest.Require(t)
	dir := t.TempDir()
	host := filepath.Join(dir, "host")
	d := newDrive(t, dir, "drive", 256*volume.MiB)
	if _, err := command.New().Run(t.Context(), "mkfs.ext4", "-q", "-m", "0", d.dev.Path()); err != nil {
		t.Fatal(err)
	}
	d.must(os.Mkdir(host, 0o700))
	d.must(unix.Mount(d.dev.Path(), host, "ext4", 0, ""))
	t.Cleanup(func() { d.must(unix.Unmount(host, 0)) })
	img, err := os.Create(filepath.Join(host, ImageFile))
	d.must(err)
	defer img.Close()
	const have, want = 64 * volume.MiB, 192 * volume.MiB
	d.must(unix.Fallocate(int(img.Fd()), 0, 0, int64(have)))
	allocated := func() volume.Bytes {
		t.Helper()
		var st unix.Stat_t
		d.must(unix.Fstat(int(img.Fd()), &st))
		return volume.Bytes(st.Blocks) * statBlock
	}
	b := &Backend{cfg: Config{Notice: func(_ Reason, text string) { t.Log(text) }}}
	crashed := func() {
		t.Helper()
		d.must(unix.Fallocate(int(img.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(have), int64(want-have)))
	}
	crashed()
	d.must(b.growImage(img, PoolConfig{Size: have}))
	if got := allocated(); got > have+volume.MiB {
		t.Errorf("the flag was taken back: %s are allocated for %s", got, have)
	}
	crashed()
	d.must(b.growImage(img, PoolConfig{Size: 512 * volume.MiB}))
	if got := allocated(); got > have+volume.MiB {
		t.Errorf("there is no room for more: %s are allocated for %s", got, have)
	}
	crashed()
	d.must(b.growImage(img, PoolConfig{Size: want}))
	if st, err := img.Stat(); err != nil || volume.Bytes(st.Size()) != want || allocated() < want {
		t.Errorf("it has %d bytes, %s are allocated, %v", st.Size(), allocated(), err)
	}
}

func TestAPoolGrowsWithItsDisk(t *testing.T) {
	dir := t.TempDir()
	d := newDrive(t, dir, "drive", diskSize)
	state, mnt := filepath.Join(dir, "state"), filepath.Join(dir, "pools", "ssd")
	t.Cleanup(func() { unmountAll(t, filepath.Join(dir, "pools")) })
	d.must(initDisk(t, nil, state, mnt, d.dev.Path()))
	b := serveDisk(t, state, mnt)
	defer b.Close()
	p, err := b.slots[0].get()
	d.must(err)
	d.must(os.Truncate(d.file, int64(volume.GiB)))
	p.tidy(t.Context())
	if s, err := p.store.space(); err != nil || s.Total != diskSize {
		t.Errorf("before the disk is larger: %+v, %v", s, err)
	}
	d.must(d.dev.Refresh())
	p.tidy(t.Context())
	if s, err := p.store.space(); err != nil || s.Total != volume.GiB {
		t.Errorf("%+v, %v", s, err)
	}
}
