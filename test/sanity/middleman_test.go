package sanity

import (
	"context"
	"fmt"
	"path"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// middleman is between csi-sanity, which can ask for mount or block only, and the
// driver. It puts the filesystem type into every mount capability that names
// none, as external-provisioner does with a class's csi.storage.k8s.io/fstype and
// kubelet does from then on with what stands in the PersistentVolume. And it looks
// at every target that was published, so that a suite never passes with another
// kind of volume than its name says.
func (k *kind) middleman(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	for _, c := range capabilitiesOf(req) {
		if m := c.GetMount(); m != nil && m.GetFsType() == "" {
			m.FsType = string(k.fsType)
		}
	}
	if err := invoke(ctx, method, req, reply, conn, opts...); err != nil {
		return err
	}
	if r, ok := req.(*csi.NodePublishVolumeRequest); ok {
		if err := k.check(r.GetTargetPath()); err != nil {
			return fmt.Errorf("after %s: %w", path.Base(method), err)
		}
		k.published.Add(1)
	}
	return nil
}

func capabilitiesOf(req any) []*csi.VolumeCapability {
	switch r := req.(type) {
	case interface {
		GetVolumeCapabilities() []*csi.VolumeCapability
	}:
		return r.GetVolumeCapabilities()
	case interface {
		GetVolumeCapability() *csi.VolumeCapability
	}:
		return []*csi.VolumeCapability{r.GetVolumeCapability()}
	}
	return nil
}

// check is nil if there is a volume of this kind at a target.
func (k *kind) check(target string) error {
	var node unix.Stat_t
	if err := unix.Stat(target, &node); err != nil {
		return fmt.Errorf("look at target %s: %w", target, err)
	}
	if k.fsType == "" {
		if node.Mode&unix.S_IFMT != unix.S_IFBLK {
			return fmt.Errorf("target %s is not a block device, its mode is %o", target, node.Mode)
		}
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return fmt.Errorf("look at the filesystem of target %s: %w", target, err)
	}
	magic := map[volume.FSType]int64{volume.Ext4: unix.EXT4_SUPER_MAGIC, volume.XFS: unix.XFS_SUPER_MAGIC}
	if fs.Type != magic[k.fsType] {
		return fmt.Errorf("target %s is no %s, the magic number of its filesystem is %#x", target, k.fsType, fs.Type)
	}
	return nil
}
