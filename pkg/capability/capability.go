// Package capability reads what a CSI VolumeCapability asks for.
//
// It promises that the controller and the node understand the same message in
// the same way: what CreateVolume accepts, NodeStageVolume and
// NodePublishVolume can keep. It decides no gRPC code where the specification
// wants different ones for the two, and touches no device.
package capability

import (
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Capability is one way in which a volume is to be used.
type Capability struct {
	Mode volume.Mode
	// FSType is the filesystem asked for; "" means whatever the volume has.
	FSType volume.FSType
	// MountFlags as the caller wrote them. They may be sensitive (CSI spec,
	// MountVolume): never log them.
	MountFlags []string
	Access     csi.VolumeCapability_AccessMode_Mode
}

// Parse reads a capability. It is ErrInvalid if a field is missing or asks for
// something that no volume of this driver can have, whatever its format: a
// mount group.
func Parse(c *csi.VolumeCapability) (Capability, error) {
	if c == nil {
		return Capability{}, fmt.Errorf("%w: volume capability is missing", volume.ErrInvalid)
	}
	out := Capability{Access: c.GetAccessMode().GetMode()}
	switch access := c.GetAccessType().(type) {
	case *csi.VolumeCapability_Block:
		out.Mode = volume.ModeBlock
	case *csi.VolumeCapability_Mount:
		if access.Mount.GetVolumeMountGroup() != "" {
			return Capability{}, fmt.Errorf("%w: volume_mount_group: not supported, use fsGroup, which kubelet applies", volume.ErrInvalid)
		}
		out.Mode = volume.ModeFilesystem
		out.FSType = volume.FSType(access.Mount.GetFsType())
		out.MountFlags = access.Mount.GetMountFlags()
	default:
		return Capability{}, fmt.Errorf("%w: volume capability has no access type: set mount or block", volume.ErrInvalid)
	}
	if out.Access == csi.VolumeCapability_AccessMode_UNKNOWN {
		return Capability{}, fmt.Errorf("%w: volume capability has no access mode", volume.ErrInvalid)
	}
	return out, nil
}

// Supported says whether any volume of this driver could be used like this:
// nil, or an error without a sentinel, because CSI wants INVALID_ARGUMENT from
// the controller and FAILED_PRECONDITION from the node ("Exceeds capabilities").
func (c Capability) Supported() error {
	switch c.Access {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
	default:
		return fmt.Errorf("access mode %s: a volume can be written to on one node only: use ReadWriteOnce, ReadWriteOncePod or ReadOnlyMany", c.Access)
	}
	if c.Mode == volume.ModeFilesystem {
		switch c.FSType {
		case "", volume.Ext4, volume.XFS:
		default:
			return fmt.Errorf("filesystem type %q: supported are %s and %s", c.FSType, volume.Ext4, volume.XFS)
		}
	}
	return nil
}

// Fits says whether a volume of this format can be used like this: nil, or an
// error without a sentinel (see Supported).
func (c Capability) Fits(f volume.Format) error {
	if err := c.Supported(); err != nil {
		return err
	}
	if c.Mode != f.Mode {
		return fmt.Errorf("the volume is a %s volume, it was asked for as a %s volume", f.Mode, c.Mode)
	}
	if c.FSType != "" && c.FSType != f.FSType {
		return fmt.Errorf("the volume has the filesystem %s, %s was asked for", f.FSType, c.FSType)
	}
	return nil
}

// ReadOnly says whether nobody may write to the volume in this access mode.
func (c Capability) ReadOnly() bool {
	return c.Access == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY ||
		c.Access == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
}

// SingleWriter says whether the volume may be published at one target only.
// (SINGLE_NODE_WRITER may have several: that is Kubernetes' ReadWriteOnce.)
func (c Capability) SingleWriter() bool {
	return c.Access == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
}

// MountOptions are the mount flags as the filesystem t understands them. It is
// ErrInvalid for a flag that is not allowed.
func (c Capability) MountOptions(t volume.FSType) (filesystem.Options, error) {
	return filesystem.ParseMountFlags(t, c.MountFlags)
}

// CheckMountFlags is ErrInvalid if the flags cannot be used with the filesystem
// asked for or, when none was named, with no filesystem at all.
func (c Capability) CheckMountFlags() error {
	if c.Mode != volume.ModeFilesystem {
		return nil
	}
	if c.FSType != "" {
		_, err := c.MountOptions(c.FSType)
		return err
	}
	_, err := c.MountOptions(volume.Ext4)
	if err == nil {
		return nil
	}
	// The type may come from the source of the volume, which is not known yet;
	// NodeStageVolume checks against the real one.
	if _, xfs := c.MountOptions(volume.XFS); xfs == nil {
		return nil
	}
	return err
}

// Same is what all of several capabilities of one volume agree on: the mode and
// the filesystem. Mount and block in one request, or two filesystems, is an
// error without a sentinel.
func Same(caps []Capability) (volume.Mode, volume.FSType, error) {
	if len(caps) == 0 {
		return "", "", errors.New("no volume capability")
	}
	mode, fsType := caps[0].Mode, caps[0].FSType
	for _, c := range caps[1:] {
		if c.Mode != mode {
			return "", "", errors.New("one volume cannot be both mount and block: ask for one of them")
		}
		if fsType == "" {
			fsType = c.FSType
		}
		if c.FSType != "" && c.FSType != fsType {
			return "", "", fmt.Errorf("one volume cannot have two filesystems, %q and %q", fsType, c.FSType)
		}
	}
	return mode, fsType, nil
}
