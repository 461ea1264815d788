package e2e

import (
	"slices"
	"strings"
	"testing"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// mountedWith are the options of what a pod has at a directory.
func (p *pod) mountedWith(dir string) []string {
	p.s.t.Helper()
	for line := range strings.Lines(p.exec("/bin/busybox", "cat", "/proc/mounts")) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[1] == dir {
			return strings.Split(fields[3], ",")
		}
	}
	p.s.t.Fatalf("pod %s has nothing mounted at %s", p.name, dir)
	return nil
}

func TestMountOptionsOfAClassHold(t *testing.T) {
	t.Parallel()
	for class, c := range map[string]struct{ options, want, not []string }{
		classExt4: {
			options: []string{"noatime", "commit=30", "data=journal"},
			want:    []string{"rw", "noatime", "commit=30", "data=journal", "nosuid", "nodev"},
			not:     []string{"relatime"},
		},
		classXFS: {
			options: []string{"noexec", "nodiratime", "logbsize=64k", "allocsize=1m"},
			want:    []string{"rw", "noexec", "nodiratime", "logbsize=64k", "allocsize=1024k", "nosuid", "nodev", "nouuid"},
		},
	} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			own := s.class(class, "options", func(sc *storagev1.StorageClass) { sc.MountOptions = c.options })
			s.claim(newClaim("app", own, smallOf(class)))
			for _, name := range []string{"app", "again"} { // staged anew for the second
				app := s.run(idle(name, "app"))
				have := app.mountedWith(dataDir)
				for _, want := range c.want {
					if !slices.Contains(have, want) {
						t.Errorf("with %v a pod has %v, want %s", c.options, have, want)
					}
				}
				for _, not := range c.not {
					if slices.Contains(have, not) {
						t.Errorf("with %v a pod has %v, want no %s", c.options, have, not)
					}
				}
				app.write("/data/file", 1)
				app.verify("/data/file", 1)
				app.delete()
			}
		})
	}
}

// TestMountOptionsThatAreRefusedSayWhy has the options of a class refused when the
// volume is made, and those that somebody gave to a volume when a pod wants it.
func TestMountOptionsThatAreRefusedSayWhy(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for name, c := range map[string]struct{ option, says string }{
		"discard":   {"discard", `mount option "discard" is not allowed on ext4 \(it makes every delete wait for the pool; run fstrim instead\)`},
		"nobarrier": {"nobarrier", `mount option "nobarrier" is not allowed on ext4 \(without barriers a power cut destroys the filesystem`},
		"typo":      {"noatimes", `mount option "noatimes" is not allowed on ext4: allowed are .*\bnoatime\b`},
		"value":     {"commit=1000", `mount option "commit": want a number from 1 to 300`},
		"foreign":   {"allocsize=1m", `mount option "allocsize" is not allowed on ext4`},
	} {
		s.claim(wrong(s, name, storagev1.VolumeBindingImmediate, func(class *storagev1.StorageClass) { class.MountOptions = []string{c.option} }, nil))
		event := s.awaitEvent(name, "ProvisioningFailed", `(?s)code = InvalidArgument .*`+c.says)
		s.step("%s: %s", name, event.Message)
	}

	s.claim(newClaim("app", s.immediate(classExt4), small))
	pv := s.volumeOf("app")
	s.mountVolumeWith(pv.Name, `["norecovery"]`)
	app := s.create(idle("app", "app"))
	event := s.awaitEvent("app", "FailedMount", `code = InvalidArgument .*mount option "norecovery" is not allowed on ext4 \(it shows the filesystem without its journal`)
	s.step("the pod: %s", event.Message)
	// kubelet goes on with the options that the volume had when the pod came.
	s.mountVolumeWith(pv.Name, `null`)
	app.delete()
	s.run(idle("again", "app"))
}

// mountVolumeWith gives a volume other mount options, a list in JSON.
func (s *scene) mountVolumeWith(pv, options string) {
	s.t.Helper()
	_, err := s.kube.CoreV1().PersistentVolumes().Patch(s.ctx, pv, types.MergePatchType, []byte(`{"spec":{"mountOptions":`+options+`}}`), metav1.PatchOptions{})
	s.must(err)
}
