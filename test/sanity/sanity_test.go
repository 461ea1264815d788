package sanity

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	csisanity "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// poolSize is room for the few volumes that a spec has at a time.
const poolSize = 4 * volume.GiB

// kind is a kind of volume for which csi-sanity runs.
type kind struct {
	name   string
	pool   string        // the filesystem of the pool
	fsType volume.FSType // "" for raw block
	// size and grown are multiples of the driver's alignment: csi-sanity wants to
	// get exactly what it asks for.
	size, grown volume.Bytes
	// published counts the publications that were seen to be of this kind.
	published atomic.Int64
}

func kinds() []*kind {
	var all []*kind
	for _, pool := range harness.Filesystems() {
		all = append(all,
			&kind{name: "ext4-on-" + pool, pool: pool, fsType: volume.Ext4, size: 64 * volume.MiB, grown: 128 * volume.MiB},
			&kind{name: "xfs-on-" + pool, pool: pool, fsType: volume.XFS, size: 320 * volume.MiB, grown: 640 * volume.MiB},
			&kind{name: "block-on-" + pool, pool: pool, size: 64 * volume.MiB, grown: 128 * volume.MiB},
		)
	}
	return all
}

// config is csi-sanity's configuration for a kind of volume, with nothing
// switched off.
func (k *kind) config(t *testing.T, box *harness.Box) *csisanity.TestConfig {
	t.Helper()
	// csi-sanity makes the last level only.
	dir := filepath.Join(box.Kubelet(), k.name)
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	cfg := csisanity.NewTestConfig()
	cfg.Address = "unix://" + box.Socket()
	cfg.TargetPath = filepath.Join(dir, "target")
	cfg.StagingPath = filepath.Join(dir, "globalmount")
	cfg.TestVolumeSize = int64(k.size)
	cfg.TestVolumeExpandSize = int64(k.grown)
	cfg.TestNodeVolumeAttachLimit = true
	cfg.SecretsFile = writeSecrets(t)
	// What external-provisioner and external-snapshotter add to the parameters of
	// a class: it changes nothing about a volume.
	cfg.TestVolumeParameters = map[string]string{"pool": "default", "csi.storage.k8s.io/pvc/name": "data"}
	cfg.TestSnapshotParameters = map[string]string{"csi.storage.k8s.io/volumesnapshot/name": "nightly"}
	if k.fsType == "" {
		cfg.TestVolumeAccessType = "block"
	}
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithUnaryInterceptor(k.middleman))
	return &cfg
}

// TestConformsToCSI is the only test of the package that runs csi-sanity: Ginkgo
// runs one suite per process.
func TestConformsToCSI(t *testing.T) {
	boxes, drivers := map[string]*harness.Box{}, map[string]*harness.Driver{}
	for _, pool := range harness.Filesystems() {
		boxes[pool] = harness.NewBox(t, poolSize, harness.OnFilesystem(pool))
		drivers[pool] = boxes[pool].Start()
	}
	gomega.RegisterFailHandler(ginkgo.Fail)
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // csi-sanity's own chatter
	all := kinds()
	for _, k := range all {
		ginkgo.Context(k.name, func() {
			suite := csisanity.GinkgoTest(k.config(t, boxes[k.pool]))
			t.Cleanup(suite.Finalize)
		})
	}
	var report ginkgo.Report
	ginkgo.ReportAfterSuite("keep the report", func(r ginkgo.Report) { report = r })
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.NoColor, reporter.Succinct = true, !reporter.Verbose && !reporter.VeryVerbose
	if ginkgo.RunSpecs(t, "csi-sanity", suite, reporter); t.Failed() {
		for pool, driver := range drivers {
			t.Logf("the driver with the pool on %s:\n%s", pool, driver.Log())
		}
	}
	fmt.Println() // Ginkgo's last line has no end
	if len(suite.FocusStrings)+len(suite.SkipStrings) > 0 {
		t.Fatal("-ginkgo.focus and -ginkgo.skip are for looking at a failure; a run with them is not a pass")
	}
	for _, k := range all {
		checkReport(t, k, report)
	}
	for reason, specs := range skips() {
		t.Logf("%d of the skipped specs: %s", len(specs), reason)
	}
	for _, driver := range drivers {
		checkNothingLeft(t, driver)
		checkSecrets(t, driver)
		driver.Stop()
	}
}
