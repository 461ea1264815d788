package command

import (
	"strings"
	"testing"
)

func TestEveryToolThatIsRunHasAPackage(t *testing.T) {
	for program, want := range map[string]string{
		"mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "resize2fs": "e2fsprogs",
		"mkfs.xfs": "xfsprogs", "xfs_repair": "xfsprogs", "mkfs.btrfs": "btrfs-progs",
	} {
		_, err := (&Exec{path: "/nowhere"}).find(program)
		if err == nil || !strings.Contains(err.Error(), "apt-get install "+want) {
			t.Errorf("%s: %v, want the package %s", program, err, want)
		}
	}
}
