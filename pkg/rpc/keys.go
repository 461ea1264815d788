package rpc

import (
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// domain is a kind of object that has a lock of its own.
type domain string

const (
	// Volumes and snapshots are locked by the hash of the name that they were
	// requested under, so that a create by name meets a delete by id.
	domainVolume   domain = "volume"
	domainSnapshot domain = "snapshot"
	// An id that this driver did not make has no such hash. It names nothing
	// here, or an inline volume that kubelet named.
	domainForeignVolume   domain = "foreign volume"
	domainForeignSnapshot domain = "foreign snapshot"
	domainPath            domain = "path"
)

// key is one lock that a call needs.
type key struct {
	domain domain
	name   string
	shared bool
}

// keysOf is the table of what each call locks, and whether it changes anything
// at all. A call that is not in the table reads: it takes no lock, so that stats
// are answered while a snapshot is taken.
//
// Publish and unpublish share their volume, since each works on a target path of
// its own. A snapshot that is copied is shared. A live volume that is copied is
// alone, as is everything else. A publish that cannot have its volume is looked at
// before it is turned away: it may ask for what is so already (operations.repeat).
func keysOf(req any) (keys []key, changes bool) {
	switch r := req.(type) {
	case *csi.CreateVolumeRequest:
		source := r.GetVolumeContentSource()
		return join(
			shared(snapshotKey(source.GetSnapshot().GetSnapshotId())),
			volumeKey(source.GetVolume().GetVolumeId()),
			nameKey(domainVolume, r.GetName()),
		), true
	case *csi.CreateSnapshotRequest:
		return join(volumeKey(r.GetSourceVolumeId()), nameKey(domainSnapshot, r.GetName())), true
	case *csi.DeleteSnapshotRequest:
		return snapshotKey(r.GetSnapshotId()), true
	case *csi.DeleteVolumeRequest,
		*csi.ControllerExpandVolumeRequest,
		*csi.ControllerModifyVolumeRequest,
		*csi.ControllerPublishVolumeRequest,
		*csi.ControllerUnpublishVolumeRequest,
		*csi.NodeExpandVolumeRequest:
		return volumeKey(idOfVolume(req)), true
	case *csi.NodeStageVolumeRequest:
		return join(volumeKey(r.GetVolumeId()), pathKey(r.GetStagingTargetPath())), true
	case *csi.NodeUnstageVolumeRequest:
		return join(volumeKey(r.GetVolumeId()), pathKey(r.GetStagingTargetPath())), true
	case *csi.NodePublishVolumeRequest:
		return join(shared(volumeKey(r.GetVolumeId())), pathKey(r.GetTargetPath())), true
	case *csi.NodeUnpublishVolumeRequest:
		return join(shared(volumeKey(r.GetVolumeId())), pathKey(r.GetTargetPath())), true
	}
	return nil, false
}

func nameKey(d domain, name string) []key {
	if name == "" {
		return nil
	}
	return []key{{domain: d, name: volume.HashName(name)}}
}

func volumeKey(id string) []key {
	return idKey(volume.KindVolume, domainVolume, domainForeignVolume, id)
}

func snapshotKey(id string) []key {
	return idKey(volume.KindSnapshot, domainSnapshot, domainForeignSnapshot, id)
}

func idKey(kind volume.Kind, own, foreign domain, id string) []key {
	if parsed, err := volume.ParseID(kind, id); err == nil {
		return []key{{domain: own, name: parsed.Hash()}}
	}
	// Hashed because a foreign id can be megabytes long.
	return nameKey(foreign, id)
}

// pathKey knows a path by its text, and kubelet's directory may have two spellings.
// That is enough: what two calls could do to one place of one volume is ruled out
// by the volume's lock, and, since publish and unpublish share that, by the turns
// that pkg/node takes in them, and pkg/identityvolume. The path keeps two volumes from one place, which
// nobody asks for under two names at once: kubelet has one spelling of its own.
func pathKey(path string) []key {
	if path == "" {
		return nil
	}
	return []key{{domain: domainPath, name: filepath.Clean(path)}}
}

func shared(keys []key) []key {
	for i := range keys {
		keys[i].shared = true
	}
	return keys
}

// join puts keys together. Of two keys for the same lock the exclusive one
// stays: a volume may be asked to be made from itself.
func join(lists ...[]key) []key {
	var out []key
	for _, list := range lists {
	next:
		for _, k := range list {
			for i, have := range out {
				if have.domain == k.domain && have.name == k.name {
					out[i].shared = have.shared && k.shared
					continue next
				}
			}
			out = append(out, k)
		}
	}
	return out
}
