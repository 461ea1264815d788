package filesystem_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestFormattedVolumeMountsWithEveryAllowedKindOfFlag(t *testing.T) {
	roottest.Require(t)
	flags := map[volume.FSType][]string{
		volume.Ext4: {"noatime,nodiratime,noexec,lazytime,dirsync", "data=ordered,commit=30,errors=remount-ro,nodelalloc,noauto_da_alloc,journal_checksum"},
		volume.XFS:  {"strictatime,sync,async,nolazytime", "inode64,noquota,wsync,largeio,swalloc,filestreams,logbufs=4,logbsize=64k,allocsize=1m"},
	}
	everyType(t, func(t *testing.T, fs volume.FSType) {
		path := newFilesystem(t, fs, 300*volume.MiB)
		dev := attach(t, path)
		m := mountDevice(t, dev.Path(), fs, flags[fs]...)
		want := fill(t, m.dir+"/file", volume.MiB)
		m.unmount()
		m = mountDevice(t, dev.Path(), fs)
		if got, err := os.ReadFile(m.dir + "/file"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the file has other content, %v", err)
		}
		if stats, err := filesystem.Measure(m.root); err != nil || stats.ReadOnly || stats.Used < volume.MiB ||
			stats.Total > 300*volume.MiB || stats.Available+stats.Used > stats.Total || stats.UsedInodes < 1 || stats.Inodes != stats.UsedInodes+stats.FreeInodes {
			t.Errorf("Measure = %+v, %v", stats, err)
		}
	})
}

func TestReadOnlyFilesystemRefusesWrites(t *testing.T) {
	roottest.Require(t)
	everyType(t, func(t *testing.T, fs volume.FSType) {
		dev := attach(t, newFilesystem(t, fs, 300*volume.MiB))
		m := mountDevice(t, dev.Path(), fs, "ro")
		if err := os.WriteFile(m.dir+"/file", nil, 0o600); err == nil {
			t.Error("a write succeeded")
		}
		if stats, err := filesystem.Measure(m.root); err != nil || !stats.ReadOnly {
			t.Errorf("Measure = %+v, %v", stats, err)
		}
		if err := filesystem.GrowOnline(m.root, fs, 300*volume.MiB); err != nil {
			t.Errorf("GrowOnline with nothing to do = %v", err)
		}
		_, err := mount.New(t.Context(), mount.Config{FSType: string(fs), Source: dev.Path()})
		if !errors.Is(err, volume.ErrInUse) {
			t.Errorf("a second mount for writing = %v, want ErrInUse", err)
		}
	})
}

func TestXFSCloneMountsBesideItsSource(t *testing.T) {
	roottest.Require(t)
	source := newFilesystem(t, volume.XFS, 300*volume.MiB)
	clone := newImage(t, 300*volume.MiB)
	copySparse(t, clone, source)
	first := mountDevice(t, attach(t, source).Path(), volume.XFS)
	second := mountDevice(t, attach(t, clone).Path(), volume.XFS)
	fill(t, second.dir+"/only-here", 4096)
	if _, err := os.Stat(first.dir + "/only-here"); !os.IsNotExist(err) {
		t.Errorf("the source sees it: %v", err)
	}
}

func TestMountedFilesystemGrows(t *testing.T) {
	roottest.Require(t)
	everyType(t, func(t *testing.T, fs volume.FSType) {
		const birth, grown = 300 * volume.MiB, 900*volume.MiB + 4096
		path := newFilesystem(t, fs, birth)
		dev := attach(t, path)
		m := mountDevice(t, dev.Path(), fs)
		want := fill(t, m.dir+"/file", volume.MiB)
		if size, err := filesystem.Size(m.root, fs); err != nil || size != birth {
			t.Errorf("Size = %v, %v, want %v", size, err, birth)
		}
		truncate(t, path, grown)
		if err := dev.Refresh(); err != nil {
			t.Fatal(err)
		}
		err := filesystem.GrowOnline(m.root, fs, grown)
		if !filesystem.CanGrowOnline(fs) {
			if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "CAP_SYS_RESOURCE") {
				t.Fatalf("GrowOnline without the capability = %v, want ErrPrecondition that names it", err)
			}
			if size, err := filesystem.Size(m.root, fs); err != nil || size != birth {
				t.Errorf("Size = %v, %v, want %v", size, err, birth)
			}
			t.Skip("this process lacks CAP_SYS_RESOURCE, without which the kernel does not grow a mounted ext4; the error was checked")
		}
		for range 2 {
			if err != nil {
				t.Fatal(err)
			}
			if size, err := filesystem.Size(m.root, fs); err != nil || size > grown || size < grown-128*volume.MiB {
				t.Errorf("Size = %v, %v, want about %v", size, err, grown)
			}
			err = filesystem.GrowOnline(m.root, fs, grown)
		}
		if err := filesystem.GrowOnline(m.root, fs, birth); err != nil {
			t.Errorf("GrowOnline to less = %v", err)
		}
		if size, _ := filesystem.Size(m.root, fs); size <= birth {
			t.Errorf("it shrank to %v", size)
		}
		if got, err := os.ReadFile(m.dir + "/file"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the file has other content, %v", err)
		}
	})
}

func TestExt4GrowsOffline(t *testing.T) {
	roottest.Require(t)
	requireTool(t, "resize2fs")
	const birth, grown = 64 * volume.MiB, 2 * volume.GiB
	path := newFilesystem(t, volume.Ext4, birth)
	dev := attach(t, path)
	m := mountDevice(t, dev.Path(), volume.Ext4)
	want := fill(t, m.dir+"/file", volume.MiB)
	m.unmount()
	truncate(t, path, grown)
	if err := dev.Refresh(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := filesystem.Check(t.Context(), command.New(), dev.Path(), volume.Ext4); err != nil {
			t.Fatal(err)
		}
		if err := filesystem.GrowOffline(t.Context(), command.New(), dev.Path()); err != nil {
			t.Fatal(err)
		}
		if sb, err := filesystem.Probe(dev.File()); err != nil || sb.Size != grown {
			t.Errorf("Probe = %+v, %v", sb, err)
		}
	}
	m = mountDevice(t, dev.Path(), volume.Ext4)
	if got, err := os.ReadFile(m.dir + "/file"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has other content, %v", err)
	}
	if size, err := filesystem.Size(m.root, volume.Ext4); err != nil || size != grown {
		t.Errorf("Size = %v, %v", size, err)
	}
	if err := filesystem.Check(t.Context(), command.New(), dev.Path(), volume.Ext4); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "nothing uses the device") {
		t.Errorf("Check of a mounted filesystem = %v, want ErrPrecondition that says why", err)
	}
}

func TestCheckReplaysAJournalAndRefusesDamage(t *testing.T) {
	roottest.Require(t)
	requireTool(t, "e2fsck")
	path := newFilesystem(t, volume.Ext4, 64*volume.MiB)
	dev := attach(t, path)
	m := mountDevice(t, dev.Path(), volume.Ext4)
	want := fill(t, m.dir+"/file", volume.MiB)
	if err := filesystem.Sync(m.root); err != nil {
		t.Fatal(err)
	}
	// A copy of a mounted filesystem has a journal to replay.
	dirty := newImage(t, 64*volume.MiB)
	b, err := io.ReadAll(io.NewSectionReader(dev.File(), 0, int64(64*volume.MiB)))
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, dirty, 0, b)
	for range 2 {
		if err := filesystem.Check(t.Context(), command.New(), dirty, volume.Ext4); err != nil {
			t.Fatal(err)
		}
	}
	replayed := mountDevice(t, attach(t, dirty).Path(), volume.Ext4)
	if got, err := os.ReadFile(replayed.dir + "/file"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has other content, %v", err)
	}
	replayed.unmount()

	damaged := newImage(t, 64*volume.MiB)
	clear(b[4096:16384]) // the group descriptors
	clear(b[len(b)/2:])
	overwrite(t, damaged, 0, b)
	err = filesystem.Check(t.Context(), command.New(), damaged, volume.Ext4)
	if !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "clone") {
		t.Errorf("Check of a damaged filesystem = %v, want ErrPrecondition that says what to do", err)
	}
	if err := filesystem.Check(t.Context(), command.New(), damaged, volume.XFS); err != nil {
		t.Errorf("Check of xfs = %v, want nothing", err)
	}
}

func TestFrozenFilesystemHoldsWritersUntilThaw(t *testing.T) {
	roottest.Require(t)
	everyType(t, func(t *testing.T, fs volume.FSType) {
		dev := attach(t, newFilesystem(t, fs, 300*volume.MiB))
		m := mountDevice(t, dev.Path(), fs)
		if err := filesystem.Thaw(m.root); err != nil {
			t.Errorf("Thaw of one that is not frozen = %v", err)
		}
		if err := filesystem.Sync(m.root); err != nil {
			t.Fatal(err)
		}
		if err := filesystem.Freeze(m.root); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = filesystem.Thaw(m.root) }) // the test has thawed it, unless it failed
		if err := filesystem.Freeze(m.root); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("a second Freeze = %v, want ErrBusy", err)
		}
		if err := filesystem.Sync(m.root); err != nil {
			t.Errorf("Sync of a frozen one = %v", err)
		}
		var written atomic.Bool
		done := make(chan error, 1)
		go func() {
			err := os.WriteFile(m.dir+"/file", []byte("x"), 0o600)
			written.Store(true)
			done <- err
		}()
		time.Sleep(100 * time.Millisecond)
		if written.Load() {
			t.Error("a write went through a frozen filesystem")
		}
		for _, want := range []bool{true, false} {
			if frozen, err := filesystem.ThawIfFrozen(m.root); err != nil || frozen != want {
				t.Errorf("it was frozen: %t, want %t; %v", frozen, want, err)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A device may end in a piece that is too small for an allocation group. That is
// not a growth that was left undone.
func TestPieceThatIsTooSmallForAGroupIsNotMissed(t *testing.T) {
	roottest.Require(t)
	everyType(t, func(t *testing.T, fs volume.FSType) {
		path := newFilesystem(t, fs, 384*volume.MiB)
		dev := attach(t, path)
		for _, grown := range []volume.Bytes{640*volume.MiB + 4096, 640*volume.MiB + 252*volume.KiB, 768*volume.MiB + 2*volume.MiB} {
			truncate(t, path, grown)
			if err := dev.Refresh(); err != nil {
				t.Fatal(err)
			}
			if fs == volume.Ext4 {
				if err := filesystem.GrowOffline(t.Context(), command.New(), dev.Path()); err != nil {
					t.Fatal(err)
				}
			}
			m := mountDevice(t, dev.Path(), fs)
			for range 2 {
				if err := filesystem.GrowOnline(m.root, fs, grown); err != nil {
					t.Errorf("%d: GrowOnline = %v", grown, err)
				}
			}
			m.unmount()
			sb, err := filesystem.Probe(dev.File())
			if err != nil || !sb.Fills(grown) || sb.Size < grown-16*volume.MiB {
				t.Errorf("%d: %+v, %v", grown, sb, err)
			}
			if sb.Fills(grown + volume.GiB) {
				t.Errorf("%d: %+v claims to fill 1 GiB more", grown, sb)
			}
		}
	})
}

// The image of a volume on a btrfs pool is NOCOW: only then does direct I/O work.
func TestLoopOnBtrfsHasDirectIO(t *testing.T) {
	roottest.Require(t)
	requireTool(t, "mkfs.btrfs")
	pool := newImage(t, 512*volume.MiB)
	if _, err := command.New().Run(t.Context(), "mkfs.btrfs", "-q", "--", pool); err != nil {
		t.Fatal(err)
	}
	dir := mountBtrfs(t, attach(t, pool).Path())
	image := dir + "/disk.img"
	f, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := command.New().Run(t.Context(), "chattr", "+C", image); err != nil {
		t.Fatal(err)
	}
	truncate(t, image, 300*volume.MiB)
	if err := filesystem.Format(t.Context(), command.New(), image, format(volume.XFS)); err != nil {
		t.Fatal(err)
	}
	dev := attach(t, image)
	info, err := dev.Info()
	if err != nil || !info.DirectIO || info.BlockSize != 4096 {
		t.Errorf("Info = %+v, %v", info, err)
	}
	st, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	if dev, inode := identity(st); info.BackingDev != dev || info.BackingInode != inode {
		t.Errorf("the loop's backing is %d:%d, stat says %d:%d", info.BackingDev, info.BackingInode, dev, inode)
	}
	m := mountDevice(t, dev.Path(), volume.XFS)
	fill(t, m.dir+"/file", volume.MiB)
	m.unmount()
	dev.Close()
}
