package loop_test

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// expectIndexed demands that an index finds exactly the devices that Find does, by
// tag and by file.
func expectIndexed(t *testing.T, x *loop.Index, tag string, inode uint64, want int) {
	t.Helper()
	plain := find(t, tag)
	if len(plain) != want {
		t.Fatalf("%d devices have the tag, want %d: %v", len(plain), want, plain)
	}
	found, err := x.Find(tag)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain, found); diff != "" {
		t.Errorf("the index finds something else by tag (-want +got):\n%s", diff)
	}
	if want == 0 {
		return
	}
	if found, err = x.FindOn(plain[0].BackingDev, inode); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plain, found); diff != "" {
		t.Errorf("the index finds something else by file (-want +got):\n%s", diff)
	}
}

// An index must see each device that came, went, or got another file since it
// looked last.
func TestIndexSeesWhatChanged(t *testing.T) {
	roottest.Require(t)
	var x loop.Index
	for range 3 {
		c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
		var st unix.Stat_t
		if err := unix.Fstat(int(c.Backing.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		expectIndexed(t, &x, c.Tag, st.Ino, 0)
		first := attach(t, c)
		expectIndexed(t, &x, c.Tag, st.Ino, 1)
		second := attach(t, c)
		expectIndexed(t, &x, c.Tag, st.Ino, 2)
		if err := first.Refresh(); err != nil {
			t.Fatal(err)
		}
		if err := first.SetAutoclear(false); err != nil {
			t.Fatal(err)
		}
		expectIndexed(t, &x, c.Tag, st.Ino, 2)
		for _, d := range []*loop.Device{first, second} {
			if err := d.Detach(); err != nil {
				t.Fatal(err)
			}
		}
		expectGone(t, c.Tag)
		expectIndexed(t, &x, c.Tag, st.Ino, 0)
	}
}

func TestIndexOpensByTag(t *testing.T) {
	roottest.Require(t)
	var x loop.Index
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	if d, err := x.Open(loop.Wanted{Tag: c.Tag}); d != nil || err != nil {
		t.Fatalf("there is none, and Open says %v, %v", d, err)
	}
	for range 3 { // most likely at the same place
		dev := attach(t, c)
		for range 2 {
			d, err := x.Open(loop.Wanted{Tag: c.Tag})
			if err != nil || d == nil || d.Index() != dev.Index() {
				t.Fatalf("Open = %v, %v, want loop%d", d, err, dev.Index())
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := dev.Detach(); err != nil {
			t.Fatal(err)
		}
		expectGone(t, c.Tag)
		if d, err := x.Open(loop.Wanted{Tag: c.Tag}); d != nil || err != nil {
			t.Fatalf("it was detached, and Open says %v, %v", d, err)
		}
		other := attach(t, loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096})
		if d, err := x.Open(loop.Wanted{Tag: c.Tag}); d != nil || err != nil {
			t.Fatalf("another device is there, and Open says %v, %v", d, err)
		}
		if err := other.Detach(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWithNumber(t *testing.T) {
	roottest.Require(t)
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	dev := attach(t, c)
	want, err := dev.Info()
	if err != nil {
		t.Fatal(err)
	}
	got, ok, err := loop.WithNumber(want.Major, want.Minor)
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := dev.Detach(); err != nil {
		t.Fatal(err)
	}
	expectGone(t, c.Tag)
	for _, number := range [][2]uint32{{want.Major, want.Minor}, {259, 1 << 19}, {1, 1}} {
		if i, ok, err := loop.WithNumber(number[0], number[1]); ok && i.Tag == c.Tag || err != nil {
			t.Errorf("%v: %v, %v, %v", number, i, ok, err)
		}
	}
}

// BenchmarkSearch looks for a device among a hundred, as a machine with so many
// volumes does.
func BenchmarkSearch(b *testing.B) {
	roottest.Require(b)
	const devices = 100
	tag := newTag(b)
	for i := range devices {
		dev, err := loop.Attach(b.Context(), loop.Config{Backing: newImage(b, volume.MiB), Tag: fmt.Sprintf("%s-%d", tag, i), BlockSize: 4096})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := dev.Detach(); err != nil {
				b.Error(err)
			}
		})
	}
	search := func(find func(string) ([]loop.Info, error)) func(b *testing.B) {
		return func(b *testing.B) {
			for i := range b.N {
				if found, err := find(fmt.Sprintf("%s-%d", tag, i%devices)); err != nil || len(found) != 1 {
					b.Fatal(found, err)
				}
			}
		}
	}
	var x loop.Index
	b.Run("find", search(loop.Find))
	b.Run("index", search(x.Find))
	b.Run("open", search(func(tag string) ([]loop.Info, error) {
		d, err := x.Open(loop.Wanted{Tag: tag})
		if err != nil || d == nil {
			return nil, err
		}
		info, err := d.Info()
		return []loop.Info{info}, errors.Join(err, d.Close())
	}))
}

func TestIndexListsWhatIsAttached(t *testing.T) {
	roottest.Require(t)
	var x loop.Index
	c := loop.Config{Backing: newImage(t, volume.MiB), Tag: newTag(t), BlockSize: 4096}
	dev := attach(t, c)
	info, err := dev.Info()
	if err != nil {
		t.Fatal(err)
	}
	listed := func() (found []loop.Seen) {
		t.Helper()
		all, err := x.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			if s.Tag == c.Tag {
				found = append(found, s)
			}
		}
		return found
	}
	for range 2 {
		if diff := cmp.Diff([]loop.Seen{{Index: info.Index, Major: info.Major, Minor: info.Minor, Tag: c.Tag}}, listed()); diff != "" {
			t.Error(diff)
		}
	}
	if err := dev.Detach(); err != nil {
		t.Fatal(err)
	}
	expectGone(t, c.Tag)
	if left := listed(); len(left) != 0 {
		t.Errorf("it is gone, and listed: %v", left)
	}
}
