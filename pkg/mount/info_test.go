package mount

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 22 0:5 / /dev rw,nosuid shared:2 master:1 - devtmpfs devtmpfs rw,size=1024k
40 22 7:3 / /var/lib/kubelet/a\040b rw,nosuid,nodev - xfs /dev/loop3 rw,nouuid
41 40 7:3 /sub /var/lib/kubelet/a\040b ro,nosuid,nodev - xfs /dev/loop3 rw,nouuid
50 22 7:4 / /mnt/broken rw,nosuid,nodev - ext4 /dev/loop4 rw,emergency_ro
51 22 7:5 / /mnt/ro rw,nosuid,nodev - ext4 /dev/loop5 ro
`

func TestMountinfoIsUnderstood(t *testing.T) {
	infos, err := parse(strings.NewReader(sample))
	if err != nil {
		t.Fatal(err)
	}
	want := []Info{
		{ID: 40, Parent: 22, Major: 7, Minor: 3, Root: "/", Path: "/var/lib/kubelet/a b", FSType: "xfs", Source: "/dev/loop3",
			Options: []string{"rw", "nosuid", "nodev"}, SuperOptions: []string{"rw", "nouuid"}},
		{ID: 41, Parent: 40, Major: 7, Minor: 3, Root: "/sub", Path: "/var/lib/kubelet/a b", FSType: "xfs", Source: "/dev/loop3",
			Options: []string{"ro", "nosuid", "nodev"}, SuperOptions: []string{"rw", "nouuid"}},
	}
	if diff := cmp.Diff(want, OfDevice(infos, 7, 3)); diff != "" {
		t.Errorf("OfDevice (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, At(infos, "/var/lib/kubelet/a b")); diff != "" {
		t.Errorf("At (-want +got):\n%s", diff)
	}
	for _, c := range []struct {
		path     string
		readOnly bool
		failed   string
	}{{"/", false, ""}, {"/mnt/broken", true, "emergency_ro"}, {"/mnt/ro", true, ""}} {
		i := At(infos, c.path)[0]
		if i.ReadOnly() != c.readOnly || i.Failed() != c.failed {
			t.Errorf("%s: ReadOnly %t, Failed %q", c.path, i.ReadOnly(), i.Failed())
		}
	}
}

func TestPropagationIsUnderstood(t *testing.T) {
	infos, err := parse(strings.NewReader(`22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:5 / /shared rw shared:2 - tmpfs tmpfs rw
31 22 0:6 / /slave rw master:7 - tmpfs tmpfs rw
32 22 0:7 / /both rw shared:9 master:7 - tmpfs tmpfs rw
33 22 0:8 / /unbindable rw unbindable - tmpfs tmpfs rw
`))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/": "private", "/shared": "shared", "/slave": "slave", "/both": "shared", "/unbindable": "private"} {
		if got := At(infos, path)[0].Propagation(); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if both := At(infos, "/both")[0]; both.PeerGroup != 9 || both.Master != 7 {
		t.Errorf("%+v", both)
	}
}

func TestLayersAreOrderedByParent(t *testing.T) {
	layer := func(id, parent int) Info { return Info{ID: id, Parent: parent, Path: "/t"} }
	infos := []Info{layer(9, 7), {ID: 1, Parent: 1, Path: "/"}, layer(5, 1), layer(8, 9), layer(7, 5)}
	want := []Info{layer(5, 1), layer(7, 5), layer(9, 7), layer(8, 9)}
	if diff := cmp.Diff(want, At(infos, "/t")); diff != "" {
		t.Errorf("At (-want +got):\n%s", diff)
	}
	// A damaged table must end in some order, not in a loop.
	if got := At([]Info{layer(2, 3), layer(3, 2)}, "/t"); len(got) != 2 {
		t.Errorf("At of a cycle = %v", got)
	}
}

func FuzzMountinfo(f *testing.F) {
	for line := range strings.Lines(sample) {
		f.Add(line, "/mnt/ro")
	}
	f.Add(sample, "/var/lib/kubelet/a b")
	f.Add("1 1 0:1 / /a\\04 rw - x y z\n", "/a")
	f.Add("1 1 0 / / rw - - - -\n", "/")
	f.Fuzz(func(t *testing.T, text, path string) {
		infos, err := parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, i := range infos {
			i.ReadOnly()
		}
		for _, i := range At(infos, path) {
			if i.Path != path {
				t.Errorf("At(%q) gave %q", path, i.Path)
			}
		}
		OfDevice(infos, 7, 0)
	})
}
