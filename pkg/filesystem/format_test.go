package filesystem_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestFormattedImageIsRecognisedAndSparse(t *testing.T) {
	everyType(t, func(t *testing.T, fs volume.FSType) {
		for _, size := range []volume.Bytes{format(fs).MinSize(), volume.GiB, volume.GiB + 4096, volume.TiB} {
			path := newFilesystem(t, fs, size)
			sb, err := probe(t, path)
			if err != nil {
				t.Fatalf("%s: %v", size, err)
			}
			if sb.Type != fs || sb.BlockSize != 4096 || sb.Size > size || sb.Size < size-128*volume.MiB || len(sb.UUID) != 36 {
				t.Errorf("%s: %+v", size, sb)
			}
			if fs == volume.XFS && sb.SectorSize != 4096 {
				t.Errorf("%s: sector size %d", size, sb.SectorSize)
			}
			// The log of an XFS is allocated, up to 2 GiB of it.
			limit := 64 * volume.MiB
			if fs == volume.XFS {
				limit += max(size/1000, 64*volume.MiB)
			}
			if got := allocated(t, path); got > limit {
				t.Errorf("%s: the image takes %s, more than %s", size, got, limit)
			}
		}
	})
}

func TestFilesystemsDiffer(t *testing.T) {
	everyType(t, func(t *testing.T, fs volume.FSType) {
		a, errA := probe(t, newFilesystem(t, fs, format(fs).MinSize()))
		b, errB := probe(t, newFilesystem(t, fs, format(fs).MinSize()))
		if errA != nil || errB != nil || a.UUID == b.UUID {
			t.Errorf("%v %v, %v %v", a, errA, b, errB)
		}
	})
}

func TestImageWithContentIsNeverFormatted(t *testing.T) {
	everyType(t, func(t *testing.T, fs volume.FSType) {
		requireTool(t, "mkfs."+string(fs))
		size := 300 * volume.MiB
		for name, at := range map[string]volume.Bytes{"first byte": 0, "start": 65535, "last byte": size - 1} {
			path := newImage(t, size)
			overwrite(t, path, int64(at), []byte{1})
			err := filesystem.Format(t.Context(), command.New(), path, format(fs))
			if !errors.Is(err, volume.ErrPrecondition) {
				t.Errorf("%s: Format = %v, want ErrPrecondition", name, err)
			}
			if got := allocated(t, path); got > 64*volume.KiB {
				t.Errorf("%s: the image has %s now", name, got)
			}
		}
		path := newFilesystem(t, fs, size)
		before, _ := probe(t, path)
		if err := filesystem.Format(t.Context(), command.New(), path, format(fs)); !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("Format again = %v, want ErrPrecondition", err)
		}
		if after, err := probe(t, path); err != nil || after != before {
			t.Errorf("the filesystem is %v now, %v", after, err)
		}
	})
}

// An image of zeros that were written is as empty as one that is sparse.
func TestZerosThatWereWrittenCountAsEmpty(t *testing.T) {
	requireTool(t, "mkfs.ext4")
	path := newImage(t, 16*volume.MiB)
	overwrite(t, path, 0, make([]byte, 1<<20))
	if err := filesystem.Format(t.Context(), command.New(), path, format(volume.Ext4)); err != nil {
		t.Error(err)
	}
}

// refusing is a Runner that no call may reach.
type refusing struct{ t *testing.T }

func (r refusing) Run(_ context.Context, argv ...string) ([]byte, error) {
	r.t.Errorf("ran %v", argv)
	return nil, errors.New("refused")
}

func (r refusing) RunToEnd(ctx context.Context, _ *os.File, argv ...string) ([]byte, error) {
	return r.Run(ctx, argv...)
}

func TestFormatRefusesWhatCannotWork(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, path string
		format     volume.Format
		want       error
	}{
		{"a block volume", newImage(t, volume.GiB), volume.Format{Mode: volume.ModeBlock, SectorSize: 4096}, volume.ErrInvalid},
		{"an unknown type", newImage(t, volume.GiB), format("btrfs"), volume.ErrInvalid},
		{"a type that is an option", newImage(t, volume.GiB), format("-n"), volume.ErrInvalid},
		{"a relative path", "-F", format(volume.Ext4), volume.ErrInvalid},
		{"nothing there", dir + "/missing", format(volume.Ext4), volume.ErrNotFound},
		{"small ext4", newImage(t, 15*volume.MiB), format(volume.Ext4), volume.ErrOutOfRange},
		{"small xfs", newImage(t, 299*volume.MiB), format(volume.XFS), volume.ErrOutOfRange},
		{"half a block", newImage(t, volume.GiB+512), format(volume.Ext4), volume.ErrOutOfRange},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := filesystem.Format(t.Context(), refusing{t}, c.path, c.format); !errors.Is(err, c.want) {
				t.Errorf("Format = %v, want %v", err, c.want)
			}
		})
	}
}

func TestInodeRatioDecidesTheNumberOfInodes(t *testing.T) {
	requireTool(t, "mkfs.ext4")
	inodes := func(ratio int, size volume.Bytes) uint32 {
		path := newImage(t, size)
		f := format(volume.Ext4)
		f.InodeRatio = ratio
		if err := filesystem.Format(t.Context(), command.New(), path, f); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.ReadAt(b, 1024); err != nil {
			t.Fatal(err)
		}
		return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
	}
	for _, ratio := range volume.InodeRatios {
		if got, want := inodes(ratio, volume.GiB), uint32(int(volume.GiB)/ratio); got < want || got > want+8192 {
			t.Errorf("ratio %d: %d inodes, want about %d", ratio, got, want)
		}
	}
	if got := inodes(0, volume.GiB); got != 65536 {
		t.Errorf("by default 1 GiB has %d inodes, want 65536", got)
	}
	if got := inodes(0, 256*volume.MiB); got != 65536 {
		t.Errorf("by default 256 MiB has %d inodes, want 65536", got)
	}
}

func TestFailureOfMkfsIsReported(t *testing.T) {
	requireTool(t, "mkfs.ext4")
	path := newImage(t, volume.GiB)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := filesystem.Format(ctx, command.New(), path, format(volume.Ext4)); !errors.Is(err, context.Canceled) {
		t.Errorf("Format with an ended context = %v", err)
	}
}

// The features must be ones that kernel 5.15 mounts, whatever the tools default to.
func TestExt4HasOnlyTheFeaturesOfKernel515(t *testing.T) {
	requireTool(t, "dumpe2fs")
	path := newFilesystem(t, volume.Ext4, volume.GiB)
	out, err := command.New().Run(t.Context(), "dumpe2fs", "-h", path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Filesystem features":
			want := "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum"
			if value != want {
				t.Errorf("features %q, want %q", value, want)
			}
		case "Reserved block count":
			if value != "0" {
				t.Errorf("%s blocks are reserved for root", value)
			}
		case "Errors behavior":
			if value != "Remount read-only" {
				t.Errorf("on errors: %s", value)
			}
		}
	}
}

func BenchmarkFormat(b *testing.B) {
	for _, fs := range []volume.FSType{volume.Ext4, volume.XFS} {
		b.Run(string(fs)+"/1GiB", func(b *testing.B) {
			requireTool(b, "mkfs."+string(fs))
			for b.Loop() {
				newFilesystem(b, fs, volume.GiB)
			}
		})
	}
}

func TestProbeRefusesWhatIsDamaged(t *testing.T) {
	everyType(t, func(t *testing.T, fs volume.FSType) {
		path := newFilesystem(t, fs, format(fs).MinSize())
		whole := make([]byte, 64<<10)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.ReadAt(whole, 0); err != nil {
			t.Fatal(err)
		}
		at := map[volume.FSType]int{volume.Ext4: 1024, volume.XFS: 0}[fs]
		damage := map[string]func(b []byte) []byte{
			"zeroed":          func(b []byte) []byte { return make([]byte, len(b)) },
			"start zeroed":    func(b []byte) []byte { clear(b[:4096]); return b },
			"no magic":        func(b []byte) []byte { b[at], b[at+0x38] = 'Y', 0; return b },
			"one bit flipped": func(b []byte) []byte { b[at+5] ^= 0x10; return b },
			"uuid changed":    func(b []byte) []byte { b[at+0x68], b[at+32] = b[at+0x68]+1, b[at+32]+1; return b },
			"cut off":         func(b []byte) []byte { return b[:at+100] },
			"empty":           func([]byte) []byte { return nil },
			"another kind":    func(b []byte) []byte { copy(b, "LUKS\xba\xbe"); copy(b[1024:], make([]byte, 1024)); return b },
		}
		for name, change := range damage {
			_, err := filesystem.Probe(bytes.NewReader(change(bytes.Clone(whole))))
			if !errors.Is(err, volume.ErrDataLoss) || !strings.Contains(err.Error(), "not formatted again") {
				t.Errorf("%s: Probe = %v, want ErrDataLoss that says what not to do", name, err)
			}
		}
		if _, err := filesystem.Probe(bytes.NewReader(whole)); err != nil {
			t.Errorf("the undamaged one: %v", err)
		}
	})
}

// mkfs.xfs writes the superblock first and says in it that it has not finished.
func TestProbeRefusesAnInterruptedMkfs(t *testing.T) {
	path := newFilesystem(t, volume.XFS, 300*volume.MiB)
	requireTool(t, "xfs_db")
	if _, err := command.New().Run(t.Context(), "xfs_db", "-x", "-c", "sb 0", "-c", "write -d inprogress 1", path); err != nil {
		t.Fatal(err)
	}
	_, err := probe(t, path)
	if !errors.Is(err, volume.ErrDataLoss) {
		t.Errorf("Probe = %v, want ErrDataLoss", err)
	}
}

func FuzzProbe(f *testing.F) {
	for _, fs := range []volume.FSType{volume.Ext4, volume.XFS} {
		path := newFilesystem(f, fs, format(fs).MinSize())
		b := make([]byte, 4096)
		file, err := os.Open(path)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := file.ReadAt(b, 0); err != nil {
			f.Fatal(err)
		}
		file.Close()
		f.Add(b)
	}
	f.Add([]byte("XFSB"))
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, b []byte) {
		sb, err := filesystem.Probe(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, volume.ErrDataLoss) {
				t.Errorf("Probe = %v, want ErrDataLoss", err)
			}
			return
		}
		if sb.Size <= 0 || sb.BlockSize < 512 || sb.BlockSize > 64<<10 || (sb.Type != volume.Ext4 && sb.Type != volume.XFS) {
			t.Errorf("Probe = %+v", sb)
		}
	})
}
