package deploy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/holdfast-csi/holdfast/test/chart"
)

// Kubernetes takes texts only, and the driver reads numbers as people write them.
func TestParametersOfClassesAreAsWritten(t *testing.T) {
	const parameters = `{a: 1048576, b: 0, c: -3, d: 1.5, e: true, f: "007", g: 12345678901}`
	want := map[string]string{"a": "1048576", "b": "0", "c": "-3", "d": "1.5", "e": "true", "f": "007", "g": "12345678901"}
	objects := renderChart(t, chart.Options{Values: "storageClasses: [{name: vols, parameters: " + parameters + "}]\n" +
		"volumeSnapshotClasses: [{name: snaps, parameters: " + parameters + "}]\n"})
	class, snapshots := of[*storagev1.StorageClass](objects)[0], of[*snapshotv1.VolumeSnapshotClass](objects)[0]
	delete(class.Parameters, "csi.storage.k8s.io/fstype")
	for name, got := range map[string]map[string]string{class.Name: class.Parameters, snapshots.Name: snapshots.Parameters} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("class %s (-want +got):\n%s", name, diff)
		}
	}
}
