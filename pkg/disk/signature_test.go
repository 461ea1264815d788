package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

const testSize = 4 * volume.MiB

func TestEverySignatureIsFoundWhereverItMayBe(t *testing.T) {
	for _, s := range signatures {
		for _, at := range s.at {
			content := make([]byte, testSize)
			copy(content[(at+int64(testSize))%int64(testSize):], s.magic)
			found, err := Signatures(bytes.NewReader(content), testSize)
			if err != nil || len(found) == 0 || found[0] != s.what {
				t.Errorf("%s at %d: found %q, %v", s.what, at, found, err)
			}
			if err := Blank(bytes.NewReader(content), testSize); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), s.what) {
				t.Errorf("%s at %d: %v", s.what, at, err)
			}
		}
	}
}

func TestWhatLiesAtPlacesThatDependOnTheSizeIsFound(t *testing.T) {
	const size = testSize + 12<<10 // not a multiple of what metadata is aligned to
	for what, at := range map[string]int64{
		"a member of a Linux RAID":   (int64(size) - 8<<10) &^ 0xfff,
		"a member of a Linux RAID ":  int64(testSize) - 64<<10, // metadata 0.90
		"a member of a ZFS pool":     128<<10 + 37<<10,
		"a GPT partition table":      int64(size) - 512,
		"an ISO 9660 filesystem":     32769,
		"an LVM physical volume":     512,
		"a Ceph OSD":                 0,
		"an xfs filesystem":          0,
		"an encrypted volume (LUKS)": 0,
	} {
		what = strings.TrimSpace(what)
		content := make([]byte, size)
		magic := map[string]string{"a member of a Linux RAID": raidMagic, "a member of a ZFS pool": "\x0c\xb1\xba\x00\x00\x00\x00\x00"}[what]
		for _, s := range signatures {
			if s.what == what && magic == "" {
				magic = s.magic
			}
		}
		copy(content[at:], magic)
		if found, err := Signatures(bytes.NewReader(content), volume.Bytes(size)); err != nil || fmt.Sprint(found) != "["+what+"]" {
			t.Errorf("%s at %d: found %q, %v", what, at, found, err)
		}
	}
}

func TestOnlyZerosAreBlank(t *testing.T) {
	if err := Blank(bytes.NewReader(make([]byte, testSize)), testSize); err != nil {
		t.Errorf("zeros: %v", err)
	}
	for where, at := range map[string]int{"first": 777_777, "last": int(testSize) - 1} {
		content := make([]byte, testSize)
		content[at] = 1
		if err := Blank(bytes.NewReader(content), testSize); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), where) {
			t.Errorf("a byte at %d: %v", at, err)
		}
	}
	if err := Blank(bytes.NewReader(make([]byte, 1000)), testSize); err == nil {
		t.Error("a device that cannot be read to its end is blank")
	}
}

// What the real programs write.
func TestRealFilesystemsAreRecognized(t *testing.T) {
	for _, c := range []struct {
		what string
		argv []string
		fs   Filesystem
	}{
		{"ext2", []string{"mkfs.ext4", "-q", "-F"}, Filesystem{}},
		{"swap", []string{"mkswap", "-q"}, Filesystem{}},
		{"an xfs", []string{"mkfs.xfs", "-q", "-L", "holdfast", "-m", "uuid=11111111-2222-3333-4444-555555555555"},
			Filesystem{Type: "xfs", UUID: "11111111-2222-3333-4444-555555555555", Label: "holdfast", Devices: 1, Size: 512 * volume.MiB}},
		{"a btrfs", []string{"mkfs.btrfs", "-q", "-L", "holdfast", "-U", "11111111-2222-3333-4444-555555555556"},
			Filesystem{Type: "btrfs", UUID: "11111111-2222-3333-4444-555555555556", Label: "holdfast", Devices: 1, Size: 512 * volume.MiB}},
	} {
		const size = 512 * volume.MiB
		name := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(int64(size)); err != nil {
			t.Fatal(err)
		}
		if _, err := command.New().Run(t.Context(), append(c.argv, name)...); err != nil {
			t.Fatal(err)
		}
		if err := Blank(f, size); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), c.what) {
			t.Errorf("%s: %v", c.what, err)
		}
		got, ok, err := ReadFilesystem(f)
		if err != nil || ok != (c.fs.Type != "") || got != c.fs {
			t.Errorf("%s: %+v, %t, %v", c.what, got, ok, err)
		}
	}
}

func FuzzReadFilesystem(f *testing.F) {
	content := make([]byte, 128<<10)
	f.Add(content)
	copy(content[btrfsSuperAt+0x40:], btrfsMagic)
	f.Add(content)
	f.Add([]byte("XFSB"))
	f.Fuzz(func(t *testing.T, content []byte) {
		got, ok, err := ReadFilesystem(bytes.NewReader(content))
		if ok && (err != nil || got.UUID == "" || got.Type == "") {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := Signatures(bytes.NewReader(content), volume.Bytes(len(content))); err != nil {
			t.Error(err)
		}
	})
}
