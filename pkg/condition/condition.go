// Package condition puts what an engine says is wrong into the messages of CSI's
// health calls, in the same way for the controller and the node.
//
// It promises what the specification asks of them: only what is wrong is listed,
// no status has the same reason twice, and no text is longer than a string of CSI
// may be. It looks at nothing itself.
package condition

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// maxText is the length of a string in bytes (CSI spec, "Size Limits").
const maxText = 128

// OfVolume is the health of a volume.
func OfVolume(id volume.ID, conditions []volume.Condition) *csi.VolumeHealth {
	out := &csi.VolumeHealth{VolumeId: string(id)}
	for _, c := range volume.Conditions(conditions) {
		out.HealthStatuses = append(out.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: volumeStatus(c.Severity), Reason: c.Reason, Message: shorten(c.Message),
		})
	}
	return out
}

func volumeStatus(s volume.Severity) csi.VolumeHealthErrorType {
	switch s {
	case volume.Lost:
		return csi.VolumeHealthErrorType_DATA_LOSS
	case volume.Inaccessible:
		return csi.VolumeHealthErrorType_INACCESSIBLE
	default:
		return csi.VolumeHealthErrorType_DEGRADED
	}
}

// OfStorage is the health of the pools of a node. CSI knows no pools: what is
// wrong with several is one entry, which names them.
func OfStorage(pools []volume.PoolHealth) []*csi.NodeGetStorageHealthResponse_StorageBackendHealth {
	type kind struct {
		status csi.StorageHealthErrorType
		reason string
	}
	var out []*csi.NodeGetStorageHealthResponse_StorageBackendHealth
	names, texts, found := map[kind][]string{}, map[kind]string{}, []kind{}
	for _, p := range pools {
		for _, c := range volume.Conditions(p.Conditions) {
			k := kind{storageStatus(c.Severity), c.Reason}
			if names[k] == nil {
				found = append(found, k)
				texts[k] = c.Message
			}
			names[k] = append(names[k], p.Pool.Name)
		}
	}
	for _, k := range found {
		text := fmt.Sprintf("pool %s: %s", names[k][0], texts[k])
		if len(names[k]) > 1 {
			text = "pools " + strings.Join(names[k], ", ") + ": see the driver's events"
		}
		out = append(out, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{Status: k.status, Reason: k.reason, Message: shorten(text)})
	}
	return out
}

func storageStatus(s volume.Severity) csi.StorageHealthErrorType {
	if s == volume.Degraded {
		return csi.StorageHealthErrorType_STORAGE_DEGRADED
	}
	return csi.StorageHealthErrorType_STORAGE_UNREACHABLE
}

// shorten cuts a text to maxText.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxText {
		return text
	}
	const dots = "..."
	end := maxText - len(dots)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}
