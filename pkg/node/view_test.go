package node

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
)

func TestAMountThatCannotBeLookedAtCountsAsShown(t *testing.T) {
	b := newBench(t)
	numbers := map[string]uint64{"loop5": unix.Mkdev(7, 5)}
	if err := os.Symlink(b.kubelet, b.target("link")); err != nil {
		t.Fatal(err)
	}
	write(t, b.target("file"), "")
	for _, c := range []struct {
		name string
		at   mount.Info
		want bool
	}{
		{"what is gone", mount.Info{Root: "/loop5", Path: b.target("none")}, false},
		{"what is no device", mount.Info{Root: "/loop5", Path: b.target("file")}, false},
		{"another device", mount.Info{Root: "/loop6", Path: b.target("link")}, false},
		{"what cannot be opened", mount.Info{Root: "/loop5", Path: b.target("link")}, true},
		{"a removed node that cannot be opened", mount.Info{Root: "/loop5//deleted", Path: b.target("link")}, true},
	} {
		if got := b.showsNode(c.at, numbers); got != c.want {
			t.Errorf("%s: shown is %t", c.name, got)
		}
	}
}

func TestANodeThatWasRemovedSinceItWasBoundIsStillShown(t *testing.T) {
	b := newBench(t)
	const number = 0x701 // 7:1; the node is never opened
	node, target := b.target("loop1"), b.target("p")
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, number); err != nil {
		t.Skip("this process may not make device nodes: ", err)
	}
	write(t, target, "")
	if err := unix.Mount(node, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(node); err != nil {
		t.Fatal(err)
	}
	top := at(t, target)
	if nodeName(top) != "pod-loop1" || !b.showsNode(top, map[string]uint64{"pod-loop1": unix.Mkdev(7, 1)}) {
		t.Errorf("the mount of %s is not seen", top.Root)
	}
}
