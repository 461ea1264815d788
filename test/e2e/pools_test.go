package e2e

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	diskPool = "disk"
	diskDir  = cluster.PoolsDir + "/" + diskPool
)

// TestADiskIsAPoolBesideAnother makes a pool of a blank disk by the commands of
// docs/guides/pools.md, and lives with it: a class of its own, a reboot, trouble
// that is told and mended, and a disk that is pulled out and put back. Through all
// of it the pool that was there before serves as ever. It is one test because each
// change of the driver's pools starts it anew.
func TestADiskIsAPoolBesideAnother(t *testing.T) {
	var s *scene
	var d *disk
	var original corev1.PodTemplateSpec
	t.Cleanup(func() { // when nobody has a volume in it any more
		if d != nil {
			s.afterwards(func(late *scene) { late.forgetDisk(d, diskPool, original) })
		}
	})
	s = newScene(t)
	original = s.driverTemplate()
	d = newDisk(s, 3*volume.GiB)
	s.afterwards(func(*scene) { // the scene's end needs the disk
		if d.dev == nil {
			d.plug()
		}
	})

	p := s.makePoolOf(d)
	p.app.write("/data/file", 1)
	p.other.write("/data/file", 2)
	p.copiesStay()
	p.troubleIsTold()
	p.reboots()
	p.isPulledOut()
}

// twoPools is a node with two pools, and an application in each.
type twoPools struct {
	s          *scene
	d          *disk
	class      string // of the pool on the disk
	app, other lastingPod
}

// makePoolOf follows the guide: init, the patch that init prints, and a class.
func (s *scene) makePoolOf(d *disk) *twoPools {
	s.t.Helper()
	printed, err := s.inDriver("pool", "init", "--pool-filesystem="+diskPool+"=xfs", diskPool+"="+d.dev.Path())
	if err != nil {
		s.t.Fatalf("driver pool init: %v\n%s", err, printed)
	}
	s.step("driver pool init says:\n%s", printed)
	s.says("driver pool init", printed, "pool disk is ready", "of xfs on "+d.dev.Path(), regexp.QuoteMeta("--pool="+diskPool+"="+diskDir), regexp.QuoteMeta("parameters: {pool: disk}"))
	again, err := s.inDriver("pool", "init", diskPool+"2="+d.dev.Path())
	if err == nil {
		s.t.Errorf("the disk became a pool twice:\n%s", again)
	}
	s.step("once more, under another name, it says: %s", strings.TrimSpace(again))
	patches := regexp.MustCompile(`(?m)^ *kubectl -n holdfast-system patch .*$`).FindAllString(printed, -1)
	s.script(strings.Join(patches, "\n"))
	s.awaitRollout()

	pools := s.pools()
	if names := slices.Sorted(maps.Keys(pools)); !slices.Equal(names, []string{"default", diskPool}) {
		s.t.Fatalf("driver pool status shows the pools %v, want default and disk", names)
	}
	if on := pools[diskPool]; !on.Available || on.Kind != "disk" || on.Filesystem != "xfs" || on.Size < 2*volume.GiB || on.Size > 3*volume.GiB {
		s.t.Errorf("driver pool status shows %+v", on)
	}
	text, err := s.inDriver("pool", "status")
	s.must(err)
	s.says("driver pool status", text, `(?m)^NAME +ID +STATE`, `(?m)^default +\w+ +ok `, `(?m)^disk +\w+ +ok +disk +0 +0 `)

	p := &twoPools{s: s, d: d}
	p.class = s.class(classExt4, diskPool, parameter("pool", diskPool))
	for name, pool := range pools { // kubelet sets it once the driver is registered again
		await(s, aWhile, one(s.kube.CoreV1().Nodes(), cluster.NodeName), "has the label of pool "+name, func(n *corev1.Node) bool {
			return n.Labels["topology.csi.holdfast.dev/pool-"+string(pool.ID)] == "yes"
		})
	}
	for class, pool := range map[string]string{p.class: diskPool, classExt4: "default"} {
		var want volume.Bytes // it grows while space of tests before comes back
		room := s.awaitRoomFor(class, "is told that of its pool", func(room volume.Bytes) bool {
			want = s.pools()[pool].Room
			return near(room, want)
		})
		s.step("class %s: the largest volume that fits is %s, driver pool status says %s", class, room, want)
	}
	p.app = s.lasting("app", newClaim("app", p.class, small))[0]
	p.other = s.lasting("other", newClaim("other", classExt4, small))[0]
	for _, app := range []lastingPod{p.app, p.other} {
		app.await("runs", running)
	}
	pv := s.volumeOf("app")
	key := "topology.csi.holdfast.dev/pool-" + string(pools[diskPool].ID)
	if terms := pv.Spec.NodeAffinity.Required.NodeSelectorTerms; len(terms) != 1 || len(terms[0].MatchExpressions) != 1 || terms[0].MatchExpressions[0].Key != key {
		s.t.Errorf("the volume asks for %v of its node, want %s alone", terms, key)
	}
	if _, err := os.Stat(filepath.Join(diskDir, "volumes", pv.Spec.CSI.VolumeHandle)); err != nil {
		s.t.Errorf("the volume of class %s is not on the disk: %v", p.class, err)
	}
	return p
}

// near reports whether two sizes are the same, but for what a pool needs for itself
// between two looks.
func near(a, b volume.Bytes) bool {
	const slack = 64 * volume.MiB
	return a > 0 && a-b < slack && b-a < slack
}

// awaitRoomFor is awaitRoom for any class.
func (s *scene) awaitRoomFor(class, state string, ok func(volume.Bytes) bool) volume.Bytes {
	s.t.Helper()
	capacities := all(s.kube.StorageV1().CSIStorageCapacities(driverNamespace), "capacity of class "+class)
	found := await(s, aWhile, capacities, state, func(c *storagev1.CSIStorageCapacity) bool {
		return c.StorageClassName == class && c.MaximumVolumeSize != nil && ok(bytesOf(c.MaximumVolumeSize))
	})
	return bytesOf(found.MaximumVolumeSize)
}

// copiesStay takes copies in the pool of their source, and demands that a class with
// another pool is refused.
func (p *twoPools) copiesStay() {
	s := p.s
	s.t.Helper()
	s.snapshot("instant", "app", classSnapshot)
	p.app.write("/data/file", 3)
	restored := s.runClaim(restoreOf("instant", newClaim("restored", p.class, small)))
	restored.verify("/data/file", 1)
	p.app.verify("/data/file", 3)
	elsewhere := s.class(classExt4, "elsewhere", parameter("pool", "default"))
	s.claim(restoreOf("instant", newClaim("elsewhere", elsewhere, small)))
	waiting := s.create(idle("elsewhere", "elsewhere"))
	event := s.awaitEvent("elsewhere", "ProvisioningFailed", `code = InvalidArgument .*is in pool disk, the class asks for pool default; a copy shares space with its source and stays in its pool`)
	s.step("a restore into a class of another pool: %s", event.Message)
	waiting.delete()
	// csi-provisioner lets go of the snapshot some time after its claim is gone.
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).Delete(s.ctx, "elsewhere", metav1.DeleteOptions{}))
}

// reboots demands that both pools are there again after a reboot of the node, and
// what is in them.
func (p *twoPools) reboots() {
	s := p.s
	s.t.Helper()
	s.step("reboot")
	first := map[string]string{p.app.name: p.app.instance(), p.other.name: p.other.instance()}
	s.rebootNode(s.cluster.Reboot)
	for _, app := range []lastingPod{p.app, p.other} {
		app.await("was started again", func(now *corev1.Pod) bool { return running(now) && instanceOf(now) != first[app.name] })
	}
	p.app.verify("/data/file", 3)
	p.other.verify("/data/file", 2)
	s.awaitRollout()
	if pools := s.pools(); !pools["default"].Available || !pools[diskPool].Available {
		s.t.Errorf("after a reboot the pools are %+v", pools)
	}
}

// isPulledOut takes the disk away while no driver runs, as a disk that dies with the
// machine off, and puts it back while one does.
func (p *twoPools) isPulledOut() {
	s := p.s
	s.t.Helper()
	p.app.delete()
	s.detached("app")
	s.step("pull the disk out")
	driver := s.withoutDriver(s.driverTemplate(), func() { s.must(p.d.pull(diskDir)) })
	event := s.system().awaitEvent(driver.Name, "PoolMissing", `pool disk \(`+diskDir+`\) cannot be used: .*no block device has the filesystem`)
	s.step("the event: %s", event.Message)

	s.claim(newClaim("refused", s.immediate(p.class), small))
	s.step("a new claim: %s", s.awaitEvent("refused", "ProvisioningFailed", `code = Unavailable .*pool disk .*no block device has the filesystem`).Message)
	s.must(s.kube.CoreV1().PersistentVolumeClaims(s.ns).Delete(s.ctx, "refused", metav1.DeleteOptions{}))
	s.edit("app", "256Mi")
	s.step("a growth: %s", s.awaitEvent("app", "VolumeResizeFailed", `code = Unavailable .*no block device has the filesystem`).Message)
	if text, err := s.inDriver("pool", "status"); err == nil {
		s.t.Errorf("driver pool status succeeds while a pool is away:\n%s", text)
	} else {
		s.says("driver pool status", text, `(?m)^default +\w+ +ok `, `(?m)^disk +\w+ +unavailable `, `pool disk: .*is not mounted at `+diskDir+`: the driver mounts it when it is connected`)
	}
	metrics := s.metrics()
	for pool, want := range map[string]string{"default": "1", diskPool: "0"} {
		if have := sampleOf(metrics, "holdfast_pool_available", `pool="`+pool+`"`); have != want {
			s.t.Errorf("holdfast_pool_available of pool %s is %q, want %s", pool, have, want)
		}
	}
	if have := sampleOf(metrics, "holdfast_pool_condition", `pool="`+diskPool+`"`, `reason="PoolMissing"`); have != "1" {
		s.t.Errorf("holdfast_pool_condition says %q of a pool that is missing", have)
	}

	s.step("the other pool serves")
	p.other.verify("/data/file", 2)
	s.snapshot("meanwhile", "other", classSnapshot)
	meanwhile := s.runClaim(restoreOf("meanwhile", newClaim("meanwhile", classExt4, small)))
	meanwhile.verify("/data/file", 2)
	s.stayedUp(driver)

	s.awaitRoomFor(p.class, "is told that there is no room", func(room volume.Bytes) bool { return room == 0 })
	app := s.create(idle("waiting", "app"))
	s.step("a pod: %s", s.awaitEvent("waiting", "FailedMount", `code = Unavailable .*no block device has the filesystem`).Message)

	s.step("put the disk back")
	p.d.plug()
	s.system().awaitEvent(driver.Name, "PoolBack", `pool disk \(`+diskDir+`\) is back`)
	app.await("runs", running)
	app.verify("/data/file", 3)
	s.awaitRoomFor(p.class, "is told of the room again", func(room volume.Bytes) bool { return room > volume.GiB })
}
