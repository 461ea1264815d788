package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// mountsBelow counts the mounts below a directory.
func mountsBelow(t *testing.T, dir string) int {
	t.Helper()
	infos, err := mount.List()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, i := range infos {
		if strings.HasPrefix(i.Path, dir+"/") {
			n++
		}
	}
	return n
}

// In a pod, kubelet's directory is a shared mount whose peer is the host's: what
// is mounted in one is seen in the other, and neither may multiply.
func TestMountsReachThePeersOfKubeletsDirectoryOnce(t *testing.T) {
	for name, f := range map[string]volume.Format{"ext4": ext4, "block": block} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			host := filepath.Join(filepath.Dir(b.kubelet), "host")
			if err := os.Mkdir(host, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, m := range []struct {
				source, target string
				flags          uintptr
			}{
				{b.kubelet, b.kubelet, unix.MS_BIND},
				{"", b.kubelet, unix.MS_SHARED},
				{b.kubelet, host, unix.MS_BIND},
			} {
				if err := unix.Mount(m.source, m.target, "", m.flags, ""); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() {
				for _, dir := range []string{host, b.kubelet} {
					if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
						t.Error(err)
					}
				}
			})
			// The root was opened below the new mount.
			b.Server = openBench(t, filepath.Dir(b.kubelet), nil).Server
			v := b.images.create(t, "v", f, sizeOf(f))
			b.Server.backend = b.images
			want := 2
			b.mustStage(t, v, rwop)
			if f.Mode == volume.ModeBlock {
				want = 1
			}
			b.mustPublish(t, b.publishRequest(v, "p", rwop))
			b.mustPublish(t, b.publishRequest(v, "p", rwop))
			for _, dir := range []string{b.kubelet, host} {
				if got := mountsBelow(t, dir); got != want {
					t.Errorf("%d mounts below %s, want %d", got, dir, want)
				}
			}
			_, err := b.NodePublishVolume(t.Context(), b.publishRequest(v, "q", rwop))
			wantErr(t, err, volume.ErrPrecondition)
			wantErr(t, b.unstage(t.Context(), v), volume.ErrInUse)
			b.mustEnd(t, v, "p")
			if got := mountsBelow(t, host); got != 0 {
				t.Errorf("%d mounts are left below %s", got, host)
			}
		})
	}
}
