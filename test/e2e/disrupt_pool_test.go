package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	secondPool = "second"
	secondDir  = cluster.PoolsDir + "/" + secondPool
	// imageName and mountName are inside the directory of a pool image
	// (pkg/backend/local/image.go).
	imageName = "pool.img"
	mountName = "pool"
)

// TestAPoolThatIsMissingHarmsNoOther gives the driver a second pool, which is then
// away when the driver starts, as after a disk was taken out, and comes back.
func TestAPoolThatIsMissingHarmsNoOther(t *testing.T) {
	var s *scene
	var original corev1.PodTemplateSpec
	// The pool goes when the scene has ended and nobody has a volume in it.
	t.Cleanup(func() {
		if len(original.Spec.Containers) > 0 {
			s.afterwards(func(late *scene) { late.removeSecondPool(original) })
		}
	})
	s = newScene(t)
	original = s.driverTemplate()
	s.changeDriver(func(spec *corev1.PodSpec) {
		driver := container(spec, driverContainer)
		driver.Args = append(driver.Args, "--pool="+secondPool+"="+secondDir, "--pool-size="+secondPool+"=2Gi")
	})
	s.afterwards(func(late *scene) { late.must(comeBack()) })
	inSecond := func(c *storagev1.StorageClass) { c.Parameters["pool"] = secondPool }
	class := s.class(classExt4, secondPool, inSecond)
	app := s.runClaim(newClaim("app", class, small))
	app.write("/data/file", 1)
	app.delete()
	s.detached("app")

	s.step("take the second pool away")
	driver := s.withoutDriver(s.driverTemplate(), func() { s.must(goAway()) })
	s.system().awaitEvent(driver.Name, "PoolMissing", `pool second \(/var/lib/holdfast/pools/second\) cannot be used: .*`+imageName+` of the registered pool is gone`)
	waiting := s.create(idle("waiting", "app"))
	s.awaitEvent("waiting", "FailedMount", `pool second .*`+imageName+` of the registered pool is gone`)
	immediate := s.class(classExt4, "now", func(c *storagev1.StorageClass) {
		inSecond(c)
		mode := storagev1.VolumeBindingImmediate
		c.VolumeBindingMode = &mode
	})
	s.claim(newClaim("refused", immediate, small))
	s.awaitEvent("refused", "ProvisioningFailed", `pool second .*of the registered pool is gone`)
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).Delete(s.ctx, "refused", metav1.DeleteOptions{}))
	other := s.runClaim(newClaim("other", classExt4, small))
	other.write("/data/file", 2)
	other.verify("/data/file", 2)
	s.stayedUp(driver)

	s.step("bring it back")
	s.must(comeBack())
	s.system().awaitEvent(driver.Name, "PoolBack", `pool second \(/var/lib/holdfast/pools/second\) is back`)
	waiting.await("runs", running)
	waiting.verify("/data/file", 1)
	other.verify("/data/file", 2)
}

// unmountSecond unmounts the second pool, if it is mounted. No driver may run.
func unmountSecond() error {
	err := unix.Unmount(filepath.Join(secondDir, mountName), 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// goAway unmounts the second pool and takes its image away.
func goAway() error {
	if err := unmountSecond(); err != nil {
		return err
	}
	return os.Rename(filepath.Join(secondDir, imageName), filepath.Join(secondDir, imageName+".away"))
}

// comeBack brings the image back, if it is away.
func comeBack() error {
	err := os.Rename(filepath.Join(secondDir, imageName+".away"), filepath.Join(secondDir, imageName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// removeSecondPool makes the driver, the node and the Node object what they were
// before there was a second pool.
func (s *scene) removeSecondPool(original corev1.PodTemplateSpec) {
	s.t.Helper()
	s.withoutDriver(original, func() {
		s.must(unmountSecond())
		s.must(os.RemoveAll(secondDir))
		for _, path := range s.registrationsOf(secondPool) {
			s.must(os.Remove(path))
			s.unlabelNode("topology.csi.holdfast.dev/pool-" + strings.TrimSuffix(filepath.Base(path), ".json"))
		}
	})
}

// registrationsOf are the files in which the driver remembers a pool.
func (s *scene) registrationsOf(pool string) []string {
	s.t.Helper()
	paths, err := filepath.Glob(filepath.Join(cluster.StateDir, "pools", "*.json"))
	s.must(err)
	var found []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		s.must(err)
		var registration struct {
			Name string `json:"name"`
		}
		s.must(json.Unmarshal(data, &registration))
		if registration.Name == pool {
			found = append(found, path)
		}
	}
	return found
}

// unlabelNode takes a label off the node: kubelet never does.
func (s *scene) unlabelNode(label string) {
	s.t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{label: nil}}})
	s.must(err)
	_, err = s.kube.CoreV1().Nodes().Patch(s.ctx, cluster.NodeName, types.MergePatchType, patch, metav1.PatchOptions{})
	s.must(err)
}
