package condition

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAVolumeThatIsWellHasNoStatus(t *testing.T) {
	want := &csi.VolumeHealth{VolumeId: "vol.a"}
	if diff := cmp.Diff(want, OfVolume("vol.a", nil), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestNoStatusHasAReasonTwice(t *testing.T) {
	got := OfVolume("vol.a", []volume.Condition{
		{Severity: volume.Degraded, Reason: "B", Message: "b"},
		{Severity: volume.Lost, Reason: "A", Message: "first"},
		{Severity: volume.Lost, Reason: "A", Message: "second"},
		{Severity: volume.Inaccessible, Reason: "A", Message: "a"},
	})
	want := &csi.VolumeHealth{VolumeId: "vol.a", HealthStatuses: []*csi.VolumeHealth_VolumeHealthEntry{
		{Status: csi.VolumeHealthErrorType_DATA_LOSS, Reason: "A", Message: "first"},
		{Status: csi.VolumeHealthErrorType_INACCESSIBLE, Reason: "A", Message: "a"},
		{Status: csi.VolumeHealthErrorType_DEGRADED, Reason: "B", Message: "b"},
	}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestPoolsWithTheSameTroubleAreOneEntry(t *testing.T) {
	pools := []volume.PoolHealth{
		{Pool: volume.Pool{Name: "hdd"}, Conditions: []volume.Condition{{Severity: volume.Inaccessible, Reason: "PoolMissing", Message: "gone"}}},
		{Pool: volume.Pool{Name: "nvme"}, Conditions: []volume.Condition{
			{Severity: volume.Degraded, Reason: "PoolNearlyFull", Message: "1 GiB free"},
			{Severity: volume.Inaccessible, Reason: "PoolMissing", Message: "gone too"},
		}},
		{Pool: volume.Pool{Name: "well"}},
	}
	want := []*csi.NodeGetStorageHealthResponse_StorageBackendHealth{
		{Status: csi.StorageHealthErrorType_STORAGE_UNREACHABLE, Reason: "PoolMissing", Message: "pools hdd, nvme: see the driver's events"},
		{Status: csi.StorageHealthErrorType_STORAGE_DEGRADED, Reason: "PoolNearlyFull", Message: "pool nvme: 1 GiB free"},
	}
	if diff := cmp.Diff(want, OfStorage(pools), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestATextFitsIntoAString(t *testing.T) {
	long := strings.Repeat("ä", 200)
	got := OfVolume("vol.a", []volume.Condition{{Severity: volume.Lost, Reason: "A", Message: long}}).HealthStatuses[0].Message
	if len(got) > maxText || !strings.HasSuffix(got, "ä...") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
