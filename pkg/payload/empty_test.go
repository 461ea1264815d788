package payload

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// TestEmptyNeedsNoRoom empties a set on a filesystem that can hold no further file.
func TestEmptyNeedsNoRoom(t *testing.T) {
	s := newScene(t, "64k,nr_inodes=16")
	s.write(files("a", "the secret", "b", "2"))
	open, err := os.Open(s.path + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	full := false
	for i := 0; i < 16 && !full; i++ {
		full = os.WriteFile(fmt.Sprintf("%s/..stray-%d", s.path, i), nil, 0o600) != nil
	}
	empty := []File{{Name: "a", Mode: 0o444, Content: secret.New("")}, {Name: "b", Mode: 0o444}}
	if err := s.Write(empty, gid, Set{}); err == nil {
		t.Fatal("there is room for another set")
	}
	if err := s.Empty(); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 10)
	if n, _ := open.ReadAt(content, 0); n != 0 {
		t.Errorf("the open file holds %q", content[:n])
	}
	for _, name := range []string{"a", "b"} {
		var st unix.Stat_t
		if err := unix.Stat(s.path+"/"+name, &st); err != nil || st.Size != 0 || st.Mode&0o777 != 0o444 {
			t.Errorf("%s has %d bytes, mode %o, %v", name, st.Size, st.Mode&0o777, err)
		}
	}
	for i := range 16 {
		_ = os.Remove(fmt.Sprintf("%s/..stray-%d", s.path, i))
	}
	if !s.Holds(empty, gid) {
		t.Error("the set is not the one of empty files")
	}
}
