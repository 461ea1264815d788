package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) { roottest.Main(m) }

// attach makes a file a block device until the test ends.
func attach(t *testing.T, file string, readOnly bool) Device {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() == 0 {
		if err := f.Truncate(int64(256 * volume.MiB)); err != nil {
			t.Fatal(err)
		}
	}
	dev, err := loop.Attach(t.Context(), loop.Config{Backing: f, Tag: "disk-test", BlockSize: 512, ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	d, err := Find(dev.Path())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestADeviceIsFoundByAnyNameItHas(t *testing.T) {
	roottest.Require(t)
	d := attach(t, filepath.Join(t.TempDir(), "disk"), false)
	if d.Size != 256*volume.MiB || d.Path != "/dev/"+d.Name {
		t.Errorf("%+v", d)
	}
	link := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(d.Path, link); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(link); err != nil || got != d {
		t.Errorf("by a link: %+v, %v", got, err)
	}
	all, err := List()
	if err != nil || !slices.Contains(all, d) {
		t.Errorf("it is not in the list of %d: %v", len(all), err)
	}
	if _, err := Find(t.TempDir()); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Find("/dev/no-such-disk"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
}

func TestADeviceThatSomebodyHasIsNotClaimed(t *testing.T) {
	roottest.Require(t)
	dir := t.TempDir()
	d := attach(t, filepath.Join(dir, "disk"), false)
	f, err := d.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Claim(); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("claimed twice: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := command.New().Run(t.Context(), "mkfs.ext4", "-q", d.Path); err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(dir, "mnt")
	if err := errors.Join(os.Mkdir(mnt, 0o700), unix.Mount(d.Path, mnt, "ext4", 0, "")); err != nil {
		t.Fatal(err)
	}
	_, err = d.Claim()
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "a mount at "+mnt) {
		t.Errorf("a mounted device: %v", err)
	}
	if err := unix.Unmount(mnt, 0); err != nil {
		t.Fatal(err)
	}
	ro := attach(t, filepath.Join(dir, "read-only"), true)
	if _, err := ro.Claim(); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a read-only device: %v", err)
	}
}

func TestAllDevicesWithAFilesystemAreFound(t *testing.T) {
	roottest.Require(t)
	dir := t.TempDir()
	first := filepath.Join(dir, "first")
	d := attach(t, first, false)
	const id = "5a5a5a5a-2222-3333-4444-555555555555"
	if _, err := command.New().Run(t.Context(), "mkfs.btrfs", "-q", "-U", id, d.Path); err != nil {
		t.Fatal(err)
	}
	if got, err := new(Search).WithFilesystem(id, nil); err != nil || !slices.Equal(got.Devices, []Device{d}) {
		t.Errorf("one device: %v, %v", got, err)
	}
	if _, err := command.New().Run(t.Context(), "cp", "--sparse=always", first, filepath.Join(dir, "copy")); err != nil {
		t.Fatal(err)
	}
	second := attach(t, filepath.Join(dir, "copy"), false)
	if got, err := new(Search).WithFilesystem(id, nil); err != nil || len(got.Devices) != 2 {
		t.Errorf("and its copy: %v, %v", got, err)
	}
	skip := func(d Device) bool { return d == second }
	if got, err := new(Search).WithFilesystem(id, skip); err != nil || !slices.Equal(got.Devices, []Device{d}) {
		t.Errorf("without the copy: %v, %v", got, err)
	}
}

// The members of a mirror whose metadata is at their ends show its filesystem, and
// before it is assembled nobody holds them.
func TestAMemberOfAnArrayThatIsNotAssembledDoesNotCount(t *testing.T) {
	roottest.Require(t)
	for what, c := range map[string]struct {
		magic string
		at    int64 // from the end
		size  volume.Bytes
		want  string
	}{
		"md 1.0":              {raidMagic, 8 << 10, 255 * volume.MiB, raidMember},
		"md 0.90":             {raidMagic, 64 << 10, 255 * volume.MiB, raidMember},
		"DDF":                 {"\xde\x11\xde\x11", 512, 255 * volume.MiB, biosRAIDMember},
		"what a pod wrote":    {raidMagic, 64 << 10, 256 * volume.MiB, ""},
		"nothing at its ends": {"", 512, 255 * volume.MiB, ""},
	} {
		d := attach(t, filepath.Join(t.TempDir(), "disk"), false)
		id := "5a5a5a5a-2222-3333-4444-" + fmt.Sprintf("%012d", d.Minor)
		if _, err := command.New().Run(t.Context(), "mkfs.btrfs", "-q", "-b", strconv.FormatInt(int64(c.size), 10), "-U", id, d.Path); err != nil {
			t.Fatal(err)
		}
		f, err := d.Open(os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte(c.magic), int64(d.Size)-c.at)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		want := Found{Devices: []Device{d}}
		if c.want != "" {
			want = Found{Members: []Member{{d, c.want}}}
		}
		got, err := new(Search).WithFilesystem(id, nil)
		got.Unread = nil // others of this machine
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
}
