package lifecycle

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// byHandMark stands around the commands in the guide.
const byHandMark = "<!-- run on the host -->"

// Without Holdfast a volume is read as docs/guides/uninstall.md says.
func TestAVolumeIsReadWithoutTheDriver(t *testing.T) {
	harness.OnEachFilesystem(t, testAVolumeIsReadWithoutTheDriver)
}

func testAVolumeIsReadWithoutTheDriver(t *testing.T, flag string) {
	guide, err := os.ReadFile("../../docs/guides/uninstall.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(guide), byHandMark)
	if len(parts) != 3 {
		t.Fatalf("the guide has %d marks %s, want two", len(parts)-1, byHandMark)
	}
	script := strings.Trim(strings.TrimSpace(parts[1]), "`")
	script = strings.TrimPrefix(script, "sh")

	s := newSite(t, volume.GiB, flag)
	pods := []*pod{s.launch(ext4("ext4")), s.launch(xfs("xfs"))}
	for i, p := range pods {
		p.write("data", uint64(i+1))
		p.stop()
	}
	s.driver.Stop()
	s.box.Reboot() // the mount of the pool goes, as in the guide

	mnt := filepath.Join(s.box.Dir, "mnt")
	for i, p := range pods {
		commands := strings.ReplaceAll(script, "/var/lib/holdfast/pools/default", s.box.Pools())
		commands = strings.ReplaceAll(commands, "/mnt/", mnt+"/")
		// Between looking and unmounting the reader copies what is there.
		copied := filepath.Join(s.box.Dir, "copied")
		commands = strings.ReplaceAll(commands, "ls -l "+mnt+"/look", "ls -l "+mnt+"/look; cp "+mnt+"/look/data "+copied)
		shell := exec.CommandContext(s.ctx, "bash", "-euo", "pipefail", "-c", commands)
		shell.Env = append(os.Environ(), "ID="+p.id)
		out, err := shell.CombinedOutput()
		if err != nil {
			t.Fatalf("the commands of the guide end with %v:\n%s\n%s", err, commands, out)
		}
		if !strings.Contains(string(out), "data") {
			t.Errorf("the volume of %s shows:\n%s", p.name, out)
		}
		if err := workload.Verify(copied, uint64(i+1), dataSize); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		s.must(os.Remove(copied))
	}
	s.driver = s.box.Start()
	for i, p := range pods {
		p.start()
		p.verify("data", uint64(i+1))
	}
	s.clear()
}
