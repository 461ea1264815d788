package sanity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/harness"
)

// checkNothingLeft demands that the driver has nothing left of the objects that
// csi-sanity deleted; the harness looks for mounts and loops.
func checkNothingLeft(t *testing.T, driver *harness.Driver) {
	t.Helper()
	volumes, err := driver.Controller.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(volumes.GetEntries()) > 0 {
		t.Errorf("volumes are left: %v, %v", volumes.GetEntries(), err)
	}
	snapshots, err := driver.Controller.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{})
	if err != nil || len(snapshots.GetEntries()) > 0 {
		t.Errorf("snapshots are left: %v, %v", snapshots.GetEntries(), err)
	}
}

// canary starts every secret that csi-sanity passes.
const canary = "canary-3f9c1d"

// writeSecrets writes csi-sanity's file of secrets, one for each call that can
// have some.
func writeSecrets(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, call := range []string{
		"CreateVolumeSecret", "DeleteVolumeSecret", "ControllerPublishVolumeSecret", "ControllerUnpublishVolumeSecret",
		"ControllerValidateVolumeCapabilitiesSecret", "NodeStageVolumeSecret", "NodePublishVolumeSecret", "CreateSnapshotSecret",
		"DeleteSnapshotSecret", "ControllerExpandVolumeSecret", "ControllerModifyVolumeSecret", "ListSnapshotsSecret", "GetSnapshotSecret",
	} {
		text.WriteString(call + ":\n  password: " + canary + "-" + call + "\n")
	}
	path := filepath.Join(t.TempDir(), "secrets.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkSecrets demands that the driver logged its calls and none of the secrets.
func checkSecrets(t *testing.T, driver *harness.Driver) {
	t.Helper()
	log := driver.Log()
	if !strings.Contains(log, "method=CreateVolume") {
		t.Error("the driver's log has no calls in it")
	}
	if strings.Contains(log, canary) {
		t.Error("the driver's log has secrets in it")
	}
}
