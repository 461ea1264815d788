package filesystem_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestMountFlagsAreUnderstood(t *testing.T) {
	nouuid := mount.Option{Key: "nouuid"}
	for _, c := range []struct {
		fs    volume.FSType
		flags []string
		want  filesystem.Options
	}{
		{volume.Ext4, nil, filesystem.Options{}},
		{volume.XFS, nil, filesystem.Options{Super: []mount.Option{nouuid}}},
		{volume.XFS, []string{"nouuid", "nouuid"}, filesystem.Options{Super: []mount.Option{nouuid}}},
		{volume.Ext4, []string{"noatime,nodiratime", "noexec"}, filesystem.Options{Attr: mount.AttrNoAtime | mount.AttrNoDirAtime | mount.AttrNoExec}},
		{volume.Ext4, []string{"noatime", "strictatime"}, filesystem.Options{Attr: mount.AttrStrictAtime}},
		{volume.Ext4, []string{"strictatime", "relatime", "noexec", "exec"}, filesystem.Options{}},
		{volume.Ext4, []string{"ro", "nosuid", "nodev", "defaults", "nodiscard", " ", ""}, filesystem.Options{ReadOnly: true}},
		{volume.Ext4, []string{"ro", "rw"}, filesystem.Options{}},
		{volume.Ext4, []string{"data=journal,commit=5", "data=ordered"}, filesystem.Options{
			Super: []mount.Option{{Key: "commit", Value: "5"}, {Key: "data", Value: "ordered"}}}},
		{volume.XFS, []string{"logbsize=256k,sync,async"}, filesystem.Options{
			Super: []mount.Option{nouuid, {Key: "logbsize", Value: "256k"}, {Key: "async"}}}},
	} {
		got, err := filesystem.ParseMountFlags(c.fs, c.flags)
		if err != nil {
			t.Errorf("%s %q: %v", c.fs, c.flags, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s %q (-want +got):\n%s", c.fs, c.flags, diff)
		}
	}
}

func TestMountFlagsThatAreNotAllowedAreRefusedWithAReason(t *testing.T) {
	for _, c := range []struct {
		fs         volume.FSType
		flag, says string
	}{
		{volume.Ext4, "loop=/dev/loop0", "attaches"},
		{volume.Ext4, "noatime,offset=4096", "attaches"},
		{volume.Ext4, "X-mount.mkdir", "programs"},
		{volume.Ext4, "x-systemd.automount", "programs"},
		{volume.XFS, "norecovery", "journal"},
		{volume.Ext4, "noload", "journal"},
		{volume.Ext4, "nobarrier", "power cut"},
		{volume.Ext4, "discard", "fstrim"},
		{volume.Ext4, "suid", "set-uid"},
		{volume.Ext4, "dev", "devices"},
		{volume.Ext4, "context=system_u:object_r:container_file_t:s0", "SELinux"},
		{volume.Ext4, "remount", "mount(8)"},
		{volume.Ext4, "nouuid", "allowed are"},
		{volume.XFS, "data=ordered", "allowed are"},
		{volume.Ext4, "errors=panic", "remount-ro"},
		{volume.Ext4, "commit=0", "1 to 300"},
		{volume.Ext4, "commit=+5", "1 to 300"},
		{volume.Ext4, "commit", "1 to 300"},
		{volume.Ext4, "noatime=1", "no value"},
		{volume.XFS, "logbufs=9", "2 to 8"},
		{volume.Ext4, "--bind", "allowed are"},
		{volume.Ext4, "evil\x1b[2J", "allowed are"},
		{volume.Ext4, strings.Repeat("noatime,", 1000), "4096"},
		{volume.Ext4, strings.Repeat("a", 4000), "..."},
		{"", "ro", "supported are"},
		{"ntfs", "ro", "supported are"},
	} {
		_, err := filesystem.ParseMountFlags(c.fs, []string{c.flag})
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %.60q: %v, want ErrInvalid that says %q", c.fs, c.flag, err, c.says)
		}
		if err != nil && (len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x1b")) {
			t.Errorf("%s %.60q: the error is unfit for a log: %q", c.fs, c.flag, err)
		}
	}
}

func TestNoErrorShowsTheValueOfAFlag(t *testing.T) {
	for _, flag := range []string{
		"password=secret", "ro,password=secret", "password=sec\tret", "password=secret" + strings.Repeat("x", 200), "password=\"secret\"", "data=secret", "noatime=secret",
	} {
		_, err := filesystem.ParseMountFlags(volume.Ext4, []string{flag})
		if !errors.Is(err, volume.ErrInvalid) || strings.Contains(err.Error(), "sec") {
			t.Errorf("%.40q: %v", flag, err)
		}
	}
}

func FuzzMountFlags(f *testing.F) {
	for _, s := range []string{"ro", "noatime,data=ordered", "loop=/dev/sda", "X-mount.mkdir=0777", "logbsize=32k", "ro,,rw", "commit=5,commit=6"} {
		f.Add(s, "exec")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, fs := range []volume.FSType{volume.Ext4, volume.XFS} {
			options, err := filesystem.ParseMountFlags(fs, []string{a, b})
			if err != nil {
				if !errors.Is(err, volume.ErrInvalid) {
					t.Errorf("%v, want ErrInvalid", err)
				}
				continue
			}
			keys := map[string]bool{}
			for _, o := range options.Super {
				if keys[o.Key] || strings.ContainsAny(o.Key+o.Value, ",\\ \n\x00=") || o.Key == "" || strings.HasPrefix(o.Key, "-") {
					t.Errorf("option %q", o)
				}
				keys[o.Key] = true
			}
			if options.Attr&(mount.AttrNoAtime|mount.AttrStrictAtime) == mount.AttrNoAtime|mount.AttrStrictAtime {
				t.Error("noatime and strictatime at once")
			}
		}
	})
}
