package lifecycle

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// allocated is how much of a file has its place on the disk.
func allocated(s *site, path string) volume.Bytes {
	s.t.Helper()
	var st unix.Stat_t
	s.must(unix.Stat(path, &st))
	return volume.Bytes(st.Blocks) * 512 // stat(2)
}

// newHost makes a disk with ext4 for a pool image to be on, and mounts it. It
// goes after the box.
func newHost(s *site, size volume.Bytes) string {
	s.t.Helper()
	d := formatDisk(s, "ext4", s.t.TempDir(), size)
	d.mount(d.dir)
	s.t.Cleanup(func() {
		if s.driver != nil {
			s.driver.Kill()
		}
		for _, below := range []string{s.box.Dir, d.dir, d.base} {
			if err := teardown.Below(context.Background(), below); err != nil {
				s.t.Error(err)
			}
		}
	})
	return d.dir
}

func TestFstrimDoesNotShrinkThePoolImage(t *testing.T) {
	s := &site{t: t, box: harness.NewBox(t, volume.GiB)}
	s.limit()
	host := newHost(s, 3*volume.GiB)
	s.pool = filepath.Join(host, "pool")
	s.box.Flags = []string{"--pool=" + host, "--pool-size=2Gi", "--host-reserve=1"}
	s.driver = s.box.Start()
	image := filepath.Join(host, "pool.img")
	before := allocated(s, image)
	if before < 2*volume.GiB {
		t.Errorf("of the new pool image only %s are allocated", before)
	}
	kept, gone := s.launch(xfs("kept")), s.launch(block("gone"))
	kept.write("data", 1)
	gone.write("", 2)
	gone.retire() // leaves something to trim
	s.must(os.WriteFile(kept.path("gone"), make([]byte, 32<<20), 0o600))
	s.must(os.Remove(kept.path("gone")))
	trim := func(dir string) {
		out, err := exec.Command("fstrim", "-v", dir).CombinedOutput()
		// Where nothing can be trimmed that is an error, and just as well.
		t.Logf("fstrim: %s (%v); %s of the image are allocated", out, err, allocated(s, image))
		if now := allocated(s, image); now < before {
			t.Errorf("trimming %s took %s from the pool image", dir, before-now)
		}
	}
	for _, dir := range []string{kept.target, s.pool, host} {
		trim(dir)
	}
	s.restart("")
	trim(s.pool)
	// A reboot attaches the image anew.
	s.driver.Stop()
	s.must(teardown.Below(context.Background(), s.box.Dir))
	s.must(teardown.Below(context.Background(), host))
	s.driver = s.box.Start()
	trim(s.pool)
	kept.start()
	kept.verify("data", 1)
	s.clear()
}

func TestAPoolImageThatLostItsGroundIsAllocatedAgain(t *testing.T) {
	s := newSite(t, volume.GiB)
	p := s.launch(ext4("ground"))
	p.write("data", 1)
	s.driver.Stop()
	s.box.Reboot()
	image := filepath.Join(s.box.Pools(), "pool.img")
	// A copy that leaves out what is zeros, as a backup does.
	_, err := command.New().Run(s.ctx, "cp", "--sparse=always", image, image+".copy")
	s.must(err)
	s.must(os.Rename(image+".copy", image))
	if got := allocated(s, image); got > volume.GiB/2 {
		t.Fatalf("the copy has %s allocated", got)
	}
	s.driver = s.box.Start()
	s.mustWarn("had lost their place on the host's disk; allocated again")
	if got := allocated(s, image); got < volume.GiB {
		t.Errorf("of the image only %s are allocated", got)
	}
	p.start()
	p.verify("data", 1)
	s.restart("")
	if has("had lost their place")(s.driver.Log()) {
		t.Error("it was allocated in vain")
	}
	s.clear()
}
