package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/capability"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// NodeStageVolume attaches a volume and, if it has a filesystem, mounts it at the
// staging path: checked, as large as its device, with all options, or not at all.
// A volume that is staged like this already stays as it is. A raw block volume
// has nothing at its staging path.
//
// A volume whose filesystem is mounted elsewhere already (published targets whose
// staging mount somebody removed, another mount namespace) is mounted once more.
func (s *Server) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	if req.GetStagingTargetPath() == "" {
		return nil, fmt.Errorf("%w: staging target path is missing", volume.ErrInvalid)
	}
	c, err := capability.Parse(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	// After what is missing: a request that no volume could satisfy is
	// INVALID_ARGUMENT, whether the volume exists or not.
	id, err := volume.ParseID(volume.KindVolume, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	path, err := s.root.Resolve(req.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	v, err := s.backend.Volume(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := c.Fits(v.Format); err != nil {
		return nil, fmt.Errorf("%w: stage %s: %w", volume.ErrPrecondition, id, err)
	}
	if v.Format.Mode == volume.ModeBlock {
		err = s.stageBlock(ctx, id)
	} else {
		err = s.stageFilesystem(ctx, v, c, path)
	}
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, s.fault.At(StepStageAnswer)
}

// stageBlock attaches only: the device stays until Detach, and nothing is
// written to the staging path.
func (s *Server) stageBlock(ctx context.Context, id volume.ID) error {
	if err := s.fault.At(StepStageAttach); err != nil {
		return err
	}
	dev, err := s.backend.Attach(ctx, id)
	if err != nil {
		return err
	}
	return dev.Close()
}

func (s *Server) stageFilesystem(ctx context.Context, v volume.Volume, c capability.Capability, path string) error {
	options, err := c.MountOptions(v.Format.FSType)
	if err != nil {
		return err
	}
	options.ReadOnly = options.ReadOnly || c.ReadOnly()
	if done, err := s.isStaged(ctx, v.ID, options, path); done || err != nil {
		return err
	}
	if err := s.fault.At(StepStageAttach); err != nil {
		return err
	}
	dev, err := s.backend.Attach(ctx, v.ID)
	if err != nil {
		return err
	}
	// Until the mount is there, this is what keeps the device.
	defer dev.Close()
	tree, err := s.mountTree(ctx, v, dev, options)
	if err != nil {
		return fmt.Errorf("stage %s: %w", v.ID, err)
	}
	defer tree.Close()
	// The CO makes the staging directory; one that makes only its parent is
	// forgiven.
	target, err := s.root.CreateTarget(path, mount.Dir)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := s.fault.At(StepStageMove); err != nil {
		return err
	}
	if err := tree.Attach(target); err != nil {
		return fmt.Errorf("stage %s: %w", v.ID, err)
	}
	return s.fault.At(StepStageRelease)
}

// isStaged says whether the staging path shows the volume as asked for. It is
// ErrExists if it shows it in another way, ErrPrecondition if it shows something
// else, or a filesystem that has shut itself down.
func (s *Server) isStaged(ctx context.Context, id volume.ID, options filesystem.Options, path string) (bool, error) {
	infos, err := mount.List()
	if err != nil {
		return false, err
	}
	top, mounted := topAt(infos, path)
	if !mounted {
		return false, nil
	}
	dev, attached, err := s.lookup(ctx, id)
	if err != nil {
		return false, err
	}
	if attached {
		defer dev.Close()
	}
	if !attached || !shows(top, dev) {
		return false, fmt.Errorf("%w: stage %s: %s of %s is mounted at %s: unmount it", volume.ErrPrecondition, id, top.FSType, top.Source, path)
	}
	if what := difference(top, options); what != "" {
		return false, fmt.Errorf("%w: %s is staged at %s %s: unstage it first", volume.ErrExists, id, path, what)
	}
	staged, err := s.root.OpenTarget(path)
	if err != nil {
		return false, err
	}
	defer staged.Close()
	return true, checkAlive(id, staged)
}

// checkAlive is ErrPrecondition if the filesystem that is mounted at the staging
// path has shut itself down: a pod must not start on it. Targets that are published
// already are not asked: what Kubernetes repeats for a pod that runs must not fail.
func checkAlive(id volume.ID, staged *mount.Target) error {
	err := filesystem.Alive(staged.File())
	if errors.Is(err, volume.ErrPrecondition) {
		return fmt.Errorf("the filesystem of %s has shut itself down after an error; end its pods: it is checked when it is staged again: %w", id, err)
	}
	return err
}

// difference says what of a mount is not as the options ask, "" if nothing. The
// filesystem's own options are not compared: the kernel does not show all of
// them, and those that are allowed change nothing that a reader could notice.
func difference(i mount.Info, options filesystem.Options) string {
	// A filesystem that went read-only by itself after an error was staged for
	// writing.
	if readOnlyView(i) != options.ReadOnly {
		if !options.ReadOnly {
			return "read-only, asked for writing"
		}
		return "for writing, asked for read-only"
	}
	strict := !slices.Contains(i.Options, "relatime") && !slices.Contains(i.Options, "noatime")
	for _, a := range []struct {
		name string
		attr mount.Attr
		have bool
	}{
		{"noexec", mount.AttrNoExec, slices.Contains(i.Options, "noexec")},
		{"noatime", mount.AttrNoAtime, slices.Contains(i.Options, "noatime")},
		{"nodiratime", mount.AttrNoDirAtime, slices.Contains(i.Options, "nodiratime")},
		{"strictatime", mount.AttrStrictAtime, strict},
	} {
		want := options.Attr&a.attr != 0
		if want && !a.have {
			return "without " + a.name
		}
		if !want && a.have {
			return "with " + a.name
		}
	}
	return ""
}

// stagedAt is ErrPrecondition unless the path is a mount of the volume's
// filesystem, one that can be written to if write is true.
func stagedAt(infos []mount.Info, id volume.ID, dev *backend.Device, path string, write bool) error {
	top, ok := topAt(infos, path)
	switch {
	case !ok:
		return fmt.Errorf("%w: %s is not staged: nothing is mounted at %s: stage it again", volume.ErrPrecondition, id, path)
	case !shows(top, dev):
		return fmt.Errorf("%w: %s is not staged: %s of %s is mounted at %s: unmount it and stage again", volume.ErrPrecondition, id, top.FSType, top.Source, path)
	case write && top.Failed() != "":
		return fmt.Errorf("%w: the filesystem of %s at %s has stopped after an error (%s): unpublish and unstage it; staging repairs it", volume.ErrPrecondition, id, path, top.Failed())
	case write && top.ReadOnly():
		return fmt.Errorf("%w: %s is staged read-only at %s: unstage it, then stage it for writing", volume.ErrPrecondition, id, path)
	}
	return nil
}
