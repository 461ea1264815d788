package node

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/capability"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// publication is what NodePublishVolume is asked for.
type publication struct {
	id              volume.ID
	capability      capability.Capability
	target, staging string // as mountinfo writes them
	readOnly        bool
}

// NodePublishVolume shows a staged volume at a target: the root of its filesystem,
// or its device node. A target that shows it like this already stays untouched,
// which is what most calls find: kubelet repeats them.
//
// Secrets, publish context and volume context take no part in anything: tokens
// that Kubernetes passes there may differ from call to call, and no volume of this
// service has anything that depends on them.
func (s *Server) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	p, err := s.parsePublish(req)
	if err != nil {
		return nil, err
	}
	v, err := s.backend.Volume(ctx, p.id)
	if err != nil {
		return nil, err
	}
	if err := p.resolveFormat(v.Format); err != nil {
		return nil, err
	}
	end, err := s.turns.take(ctx, p.id)
	if err != nil {
		return nil, err
	}
	defer end()
	dev, attached, err := s.lookup(ctx, p.id)
	if err != nil {
		return nil, err
	}
	if !attached {
		return nil, fmt.Errorf("%w: %s is not staged on this node: stage it first", volume.ErrPrecondition, p.id)
	}
	defer dev.Close()
	if v.Format.Mode == volume.ModeBlock {
		err = s.publishBlock(ctx, p, dev)
	} else {
		err = s.publishFilesystem(p, dev)
	}
	if err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, s.fault.At(StepPublishAnswer)
}

func (s *Server) parsePublish(req *csi.NodePublishVolumeRequest) (publication, error) {
	var p publication
	if req.GetVolumeId() == "" {
		return p, fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	if req.GetTargetPath() == "" {
		return p, fmt.Errorf("%w: target path is missing", volume.ErrInvalid)
	}
	var err error
	if p.capability, err = capability.Parse(req.GetVolumeCapability()); err != nil {
		return p, err
	}
	if req.GetStagingTargetPath() == "" {
		// CSI spec, NodePublishVolume errors: "Staging target path not set".
		return p, fmt.Errorf("%w: staging target path is missing", volume.ErrPrecondition)
	}
	if p.id, err = volume.ParseID(volume.KindVolume, req.GetVolumeId()); err != nil {
		return p, err
	}
	if p.target, err = s.root.Resolve(req.GetTargetPath()); err != nil {
		return p, err
	}
	if p.staging, err = s.root.Resolve(req.GetStagingTargetPath()); err != nil {
		return p, err
	}
	if p.target == p.staging {
		return p, fmt.Errorf("%w: target and staging path are the same, %s", volume.ErrInvalid, p.target)
	}
	p.readOnly = req.GetReadonly() || p.capability.ReadOnly()
	return p, nil
}

// resolveFormat compares the request with what the volume is.
func (p *publication) resolveFormat(f volume.Format) error {
	if err := p.capability.Fits(f); err != nil {
		return fmt.Errorf("%w: publish %s: %w", volume.ErrPrecondition, p.id, err)
	}
	if f.Mode == volume.ModeBlock {
		return nil
	}
	options, err := p.capability.MountOptions(f.FSType)
	p.readOnly = p.readOnly || options.ReadOnly
	return err
}

func (s *Server) publishFilesystem(p publication, dev *backend.Device) error {
	if s.showsAlready(p, dev) {
		return nil
	}
	infos, err := mount.List()
	if err != nil {
		return err
	}
	if top, mounted := topAt(infos, p.target); mounted {
		return p.compare(top, shows(top, dev), readOnlyView(top))
	}
	if err := stagedAt(infos, p.id, dev, p.staging, !p.readOnly); err != nil {
		return err
	}
	if err := s.checkSingle(p, infos, dev); err != nil {
		return err
	}
	source, err := s.openStaged(p, dev)
	if err != nil {
		return err
	}
	defer source.Close()
	tree, err := mount.Bind(source.File(), p.readOnly)
	if err != nil {
		return err
	}
	defer tree.Close()
	return s.putAt(p, tree, mount.Dir)
}

// compare is nil if what is mounted at the target already is what was asked for,
// else ErrExists.
func (p publication) compare(top mount.Info, ours, readOnly bool) error {
	switch {
	case !ours:
		return fmt.Errorf("%w: publish %s: %s of %s is mounted at %s already: unpublish that first", volume.ErrExists, p.id, top.FSType, top.Source, p.target)
	case readOnly && !p.readOnly:
		return fmt.Errorf("%w: %s is published read-only at %s, asked for writing: unpublish it first", volume.ErrExists, p.id, p.target)
	case !readOnly && p.readOnly:
		return fmt.Errorf("%w: %s is published for writing at %s, asked for read-only: unpublish it first", volume.ErrExists, p.id, p.target)
	}
	return nil
}

// checkSingle is ErrPrecondition if the volume may have one target only and has
// another one.
func (s *Server) checkSingle(p publication, infos []mount.Info, dev *backend.Device) error {
	if !p.capability.SingleWriter() {
		return nil
	}
	var stacked []loop.Info
	if p.capability.Mode == volume.ModeBlock {
		var err error
		if stacked, err = s.findStacked(p.id); err != nil {
			return err
		}
	}
	if users := s.usersOf(infos, dev, stacked, p.staging, p.target); len(users) > 0 {
		return fmt.Errorf("%w: %s may be used by a single pod (SINGLE_NODE_SINGLE_WRITER) and is published at %s: unpublish it there first", volume.ErrPrecondition, p.id, some(users))
	}
	return nil
}

// openStaged opens the staging path and makes sure that it is the volume's
// filesystem still, mountinfo was read a moment ago, and that it works. The caller
// closes it.
func (s *Server) openStaged(p publication, dev *backend.Device) (*mount.Target, error) {
	staged, err := s.root.OpenTarget(p.staging)
	if err != nil {
		return nil, err
	}
	if err := checkAlive(p.id, staged); err != nil {
		staged.Close()
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(staged.File().Fd()), &st); err != nil {
		staged.Close()
		return nil, fmt.Errorf("look at %s: %w", p.staging, err)
	}
	if st.Dev != unix.Mkdev(dev.Major, dev.Minor) {
		staged.Close()
		return nil, fmt.Errorf("%w: %s was unmounted just now: stage %s again", volume.ErrPrecondition, p.staging, p.id)
	}
	return staged, nil
}

// putAt makes the target and attaches the tree to it.
func (s *Server) putAt(p publication, tree *mount.Tree, kind mount.Kind) error {
	if err := s.fault.At(StepPublishCreate); err != nil {
		return err
	}
	target, err := s.root.CreateTarget(p.target, kind)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := s.fault.At(StepPublishMount); err != nil {
		return err
	}
	return tree.Attach(target)
}
