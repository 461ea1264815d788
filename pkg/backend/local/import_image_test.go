package local

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// noisyImage is a file of noise, open for reading.
func noisyImage(t *testing.T, size volume.Bytes) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{7}), int64(size)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return opened(t, path)
}

// filesystemImage is an image with a filesystem that has a file "hello".
func filesystemImage(t *testing.T, size volume.Bytes, argv ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), argv[0], append(argv[1:], path)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	inImage(t, path, func(dir *os.File) {
		writeIn(t, dir, "hello", "world")
		if err := unix.Syncfs(int(dir.Fd())); err != nil {
			t.Fatal(err)
		}
	})
	return path
}

func writeIn(t *testing.T, dir *os.File, name, text string) {
	t.Helper()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// inImage mounts an image where nobody sees it.
func inImage(t *testing.T, path string, fn func(dir *os.File)) {
	t.Helper()
	img, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	d, err := loop.Attach(t.Context(), loop.Config{Backing: img, Tag: "import-test", BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	head := make([]byte, 4)
	if _, err := img.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	cfg := mount.Config{FSType: "ext4", Source: d.Path()}
	if string(head) == "XFSB" {
		cfg.FSType, cfg.Options = "xfs", []mount.Option{{Key: "nouuid"}}
	}
	tree, err := mount.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	root, err := tree.Root()
	if err != nil {
		t.Fatal(err)
	}
	fn(root)
	if err := errors.Join(root.Close(), tree.Close()); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) onDevice(v volume.Volume, fn func(dev *backend.Device)) {
	b.t.Helper()
	dev, err := b.Attach(b.t.Context(), v.ID)
	b.must(err)
	fn(dev)
	b.must(errors.Join(dev.Close(), b.Detach(b.t.Context(), v.ID)))
}

func TestARawImageBecomesABlockVolume(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		b := newBenchOn(t, pool, 2*volume.GiB, nil, "default")
		img := noisyImage(t, 5*volume.MiB+512)
		want, err := os.ReadFile(img.Name())
		b.must(err)
		got := b.imports(ImportSpec{Name: "a", Source: img, Format: volume.Format{SectorSize: 512}})
		if got.Volume.Format != (volume.Format{Mode: volume.ModeBlock, SectorSize: 512}) || got.Volume.Size != 5*volume.MiB+4096 || got.Entries != 0 {
			t.Errorf("%+v", got)
		}
		if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, "no direct I/O") || !strings.Contains(notes, "3584 bytes longer") {
			t.Errorf("notes: %s", notes)
		}
		b.onDevice(got.Volume, func(dev *backend.Device) {
			have, err := os.ReadFile(dev.Path)
			b.must(err)
			if !bytes.Equal(have[:len(want)], want) || len(bytes.Trim(have[len(want):], "\x00")) > 0 {
				t.Error("the device has other bytes than the image")
			}
		})
	})
}

func TestAnImageWithHolesStaysSparse(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		b := newBenchOn(t, pool, 4*volume.GiB, nil, "default")
		path := filepath.Join(t.TempDir(), "image")
		b.must(os.WriteFile(path, []byte("start"), 0o600))
		b.must(os.Truncate(path, int64(2*volume.GiB)))
		got := b.imports(ImportSpec{Name: "a", Source: opened(t, path)})
		var st unix.Stat_t
		b.must(unix.Stat(b.imagePath(got.Volume.ID), &st))
		if st.Blocks*statBlock > int64(volume.MiB) || got.Content > 64*volume.KiB {
			t.Errorf("the volume takes %d bytes, %s were read", st.Blocks*statBlock, got.Content)
		}
	})
}

func TestAPartitionTableChoosesTheSectors(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	for name, c := range map[string]struct {
		at    int64
		magic string
		want  int
	}{
		"gpt-512":  {512, "EFI PART", 512},
		"gpt-4096": {4096, "EFI PART", 4096},
		"mbr":      {510, "\x55\xaa", 512},
		"nothing":  {1000, "data", 4096},
	} {
		path := filepath.Join(t.TempDir(), "image")
		b.must(os.WriteFile(path, make([]byte, 4<<20), 0o600))
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		b.must(err)
		_, err = f.WriteAt([]byte(c.magic), c.at)
		b.must(errors.Join(err, f.Close()))
		got := b.imports(ImportSpec{Name: name, Source: opened(t, path)})
		if got.Volume.Format.SectorSize != c.want {
			t.Errorf("%s: %d", name, got.Volume.Format.SectorSize)
		}
		b.onDevice(got.Volume, func(dev *backend.Device) {
			info := attachedAs(t, got.Volume.ID)
			if info.BlockSize != c.want || info.DirectIO != (c.want == 4096) {
				t.Errorf("%s: %+v", name, info)
			}
		})
	}
}

// images are images of filesystems and what they need.
func images() map[string]struct {
	argv    []string
	size    volume.Bytes
	fsType  volume.FSType
	sectors int
} {
	return map[string]struct {
		argv    []string
		size    volume.Bytes
		fsType  volume.FSType
		sectors int
	}{
		"ext4":             {[]string{"mkfs.ext4", "-q", "-b", "4096"}, 64 * volume.MiB, volume.Ext4, 4096},
		"ext4 of 1 KiB":    {[]string{"mkfs.ext4", "-q", "-b", "1024"}, 64 * volume.MiB, volume.Ext4, 512},
		"xfs":              {[]string{"mkfs.xfs", "-q"}, 320 * volume.MiB, volume.XFS, 512},
		"xfs of 4096":      {[]string{"mkfs.xfs", "-q", "-s", "size=4096"}, 320 * volume.MiB, volume.XFS, 4096},
		"an odd ext4 size": {[]string{"mkfs.ext4", "-q", "-b", "4096"}, 64*volume.MiB + 1536, volume.Ext4, 4096},
	}
}

func TestAnImageWithAFilesystemBecomesAVolume(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		b := newBenchOn(t, pool, 6*volume.GiB, nil, "default")
		for name, c := range images() {
			path := filesystemImage(t, c.size, c.argv...)
			got, err := b.Import(t.Context(), ImportSpec{Name: name, Source: opened(t, path), Format: volume.Format{Mode: volume.ModeFilesystem}})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			want := volume.Format{Mode: volume.ModeFilesystem, FSType: c.fsType, SectorSize: c.sectors}
			if got.Volume.Format != want || got.Volume.Size != c.size.RoundUp(volume.Alignment) {
				t.Errorf("%s: %+v", name, got)
			}
			if warned := strings.Contains(strings.Join(got.Notes, "\n"), "no direct I/O"); warned != (c.sectors == 512) {
				t.Errorf("%s: notes %v", name, got.Notes)
			}
			hello := func(dir string) {
				if text, err := os.ReadFile(filepath.Join(dir, "hello")); err != nil || string(text) != "world" {
					t.Errorf("%s: it has %q (%v)", name, text, err)
				}
			}
			b.attachedMount(got.Volume, hello)
			b.reopen() // the record is believed again
			clone := b.mustCreate(volume.Spec{Name: name + "-clone", Source: volume.Source{Volume: got.Volume.ID}, Format: volume.Format{Mode: volume.ModeFilesystem}, Size: got.Volume.Size})
			b.attachedMount(clone, hello)
			b.must(errors.Join(b.DeleteVolume(t.Context(), clone.ID), b.DeleteVolume(t.Context(), got.Volume.ID)))
		}
		b.mustBeWell("after imports of images")
	})
}

// An image of a filesystem that was not unmounted has a log to replay, which is done
// in the volume and not in the image.
func TestAnUncleanImageIsReplayed(t *testing.T) {
	b := newBench(t, 4*volume.GiB, nil, "default")
	for name, c := range images() {
		path := filesystemImage(t, c.size, c.argv...)
		unclean := filepath.Join(t.TempDir(), "unclean")
		inImage(t, path, func(dir *os.File) {
			writeIn(t, dir, "late", "news")
			text, err := os.ReadFile(path)
			b.must(err)
			b.must(os.WriteFile(unclean, text, 0o600))
		})
		before, err := os.ReadFile(unclean)
		b.must(err)
		got, err := b.Import(t.Context(), ImportSpec{Name: name, Source: opened(t, unclean), Format: volume.Format{Mode: volume.ModeFilesystem}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b.attachedMount(got.Volume, func(dir string) {
			for file, want := range map[string]string{"hello": "world", "late": "news"} {
				if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(text) != want {
					t.Errorf("%s: %s has %q (%v)", name, file, text, err)
				}
			}
		})
		if after, err := os.ReadFile(unclean); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: the image has changed (%v)", name, err)
		}
		b.must(b.DeleteVolume(t.Context(), got.Volume.ID))
	}
}

func TestImagesThatAreRefused(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	write := func(text string) *os.File {
		path := filepath.Join(t.TempDir(), "image")
		b.must(os.WriteFile(path, []byte(text), 0o600))
		return opened(t, path)
	}
	asFilesystem := volume.Format{Mode: volume.ModeFilesystem}
	b.refuses(ImportSpec{Name: "a", Source: write("")}, volume.ErrInvalid, "is empty")
	b.refuses(ImportSpec{Name: "a", Source: write("QFI\xfb and more")}, volume.ErrInvalid, "qemu-img convert")
	b.refuses(ImportSpec{Name: "a", Source: write("\x1f\x8b\x08")}, volume.ErrInvalid, "gzip")
	b.refuses(ImportSpec{Name: "a", Source: write(strings.Repeat("x", 100000)), Format: asFilesystem}, volume.ErrPrecondition, "no ext4 or xfs")
	b.refuses(ImportSpec{Name: "a", Source: noisyImage(t, volume.MiB), Size: 512 * volume.KiB}, volume.ErrOutOfRange, "too small")

	ext4 := filesystemImage(t, 64*volume.MiB, "mkfs.ext4", "-q", "-b", "4096")
	b.refuses(ImportSpec{Name: "a", Source: opened(t, ext4), Format: volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS}}, volume.ErrInvalid, "has ext4, not xfs")
	b.refuses(ImportSpec{Name: "a", Source: opened(t, ext4), Format: volume.Format{Mode: volume.ModeFilesystem, SectorSize: 512}}, volume.ErrInvalid, "needs 4096-byte sectors")

	// A disk that is in use: attached for writing, by whomever.
	inImage(t, ext4, func(*os.File) {
		b.refuses(ImportSpec{Name: "a", Source: opened(t, ext4)}, volume.ErrInUse, "open for writing")
	})

	cut := filepath.Join(t.TempDir(), "cut")
	text, err := os.ReadFile(ext4)
	b.must(err)
	b.must(os.WriteFile(cut, text[:len(text)/2], 0o600))
	b.refuses(ImportSpec{Name: "a", Source: opened(t, cut), Format: asFilesystem}, volume.ErrPrecondition, "its end is missing")

	// The root directory's inode, in the first inode table.
	damaged := filepath.Join(t.TempDir(), "damaged")
	at := bytes.Index(text, []byte("lost+found"))
	if at < 0 {
		t.Fatal("no directory was found in the image")
	}
	copy(text[at-20:], bytes.Repeat([]byte{0xff}, 200))
	b.must(os.WriteFile(damaged, text, 0o600))
	b.refuses(ImportSpec{Name: "a", Source: opened(t, damaged), Format: asFilesystem}, volume.ErrPrecondition, "is damaged")
	// As bytes it is as good as any.
	b.imports(ImportSpec{Name: "bytes", Source: opened(t, damaged)})
}

// What begins like a filesystem that the driver does not know is not called none, and
// what nothing is known of is not called known.
func TestAnImageThatIsNotUnderstoodIsToldOf(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default")
	path := filesystemImage(t, 64*volume.MiB, "mkfs.ext4", "-q", "-b", "4096")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	b.must(err)
	_, err = f.WriteAt([]byte("another label"), 1024+0x78) // the checksum is wrong then
	b.must(errors.Join(err, f.Close()))
	b.refuses(ImportSpec{Name: "a", Source: opened(t, path), Format: volume.Format{Mode: volume.ModeFilesystem}}, volume.ErrPrecondition, "ext4 superblock has a wrong checksum")
	for _, c := range []struct {
		source  *os.File
		sectors int
		note    string
	}{
		{opened(t, path), 512, "wrong checksum"},
		{noisyImage(t, volume.MiB), 4096, "nothing is known"},
	} {
		got := b.imports(ImportSpec{Name: c.note, Source: c.source})
		if got.Volume.Format.SectorSize != c.sectors || !strings.Contains(strings.Join(got.Notes, "\n"), c.note) {
			t.Errorf("%s: %d-byte sectors, notes %q", c.note, got.Volume.Format.SectorSize, got.Notes)
		}
	}
}

// Nobody asks for a filesystem with 512-byte sectors: mkfs never makes one.
func TestOnlyAnImportHasAFilesystemWithSmallSectors(t *testing.T) {
	b := newBench(t, 4*volume.GiB, nil, "default")
	small := volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS, SectorSize: 512}
	if _, err := b.CreateVolume(t.Context(), volume.Spec{Name: "a", Size: volume.GiB, Format: small}); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("%v", err)
	}
	path := filesystemImage(t, 320*volume.MiB, "mkfs.xfs", "-q")
	got := b.imports(ImportSpec{Name: "b", Source: opened(t, path), Format: volume.Format{Mode: volume.ModeFilesystem}})
	// A check looks through it with the same sectors.
	b.attachedMount(got.Volume, func(string) {})
	b.mustBeWell("with an imported xfs")
}
