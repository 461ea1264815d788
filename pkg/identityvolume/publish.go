package identityvolume

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/payload"
	"github.com/holdfast-csi/holdfast/pkg/podtoken"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// request is what NodePublishVolume is asked for.
type request struct {
	id, target string // the target as mountinfo writes it
	gid        int
	pod        podtoken.Pod
	spec       spec
	source     credential.Source
}

// NodePublishVolume makes a tmpfs with the files that the pod asked for, and mounts it
// at the target, read-only. Everything is read first: without all of it there is no
// mount.
//
// A target that is published already stays as it is; the volume gets the tokens of
// this call, and looks for changes soon after it was answered. So the call is answered
// from memory, whatever is away.
func (s *Server) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	target, err := s.target(req.GetVolumeId(), req.GetTargetPath())
	if err != nil {
		return nil, err
	}
	end, err := s.take(target)
	if err != nil {
		return nil, err
	}
	defer end()
	h := s.find(target)
	published, err := s.isPublished(target)
	switch {
	case err != nil && h == nil:
		return nil, lookAgain(target, err)
	case h != nil && h.orphaned == nil && (published || err != nil):
		// What cannot be looked at now, or is hidden below another mount, is still what
		// the pod has.
		s.again(h, req)
		err = nil
	case err != nil:
		err = nil // an orphan, of which no more can be learnt now
	case published && h == nil && !s.whole(target):
		// It was being unpublished, and its files are gone: nobody starts without.
		err = s.publish(ctx, target, req, true)
	case published:
		err = s.adopt(target, h, req)
	case h != nil:
		err = s.remount(ctx, h, req)
	default:
		err = s.publish(ctx, target, req, false)
	}
	if err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// lookAgain is the error for a target that cannot be looked at, and may be published:
// one after which kubelet takes nothing away, unless something else is there.
func lookAgain(target string, err error) error {
	if errors.Is(err, volume.ErrExists) || errors.Is(err, volume.ErrInvalid) {
		return err
	}
	return notFinal(fmt.Sprintf("look whether something is published at %s", target), err)
}

// notFinal hides what kind an error is of: it is volume.ErrUnavailable, after which
// kubelet tries again and takes nothing away.
func notFinal(doing string, err error) error {
	return fmt.Errorf("%w: %s: %s", volume.ErrUnavailable, doing, err.Error())
}

func (s *Server) target(volumeID, path string) (string, error) {
	if volumeID == "" {
		return "", fmt.Errorf("%w: volume id is missing", volume.ErrInvalid)
	}
	if path == "" {
		return "", fmt.Errorf("%w: target path is missing", volume.ErrInvalid)
	}
	return s.cfg.Kubelet.Resolve(path)
}

// parse reads a request.
func (s *Server) parse(target string, req *csi.NodePublishVolumeRequest) (request, error) {
	r := request{id: req.GetVolumeId(), target: target}
	mounted := req.GetVolumeCapability().GetMount()
	switch {
	case mounted == nil:
		return r, fmt.Errorf("%w: an identity volume is a directory of files: volume capability is missing or asks for a block device", volume.ErrInvalid)
	case len(mounted.GetMountFlags()) > 0:
		return r, fmt.Errorf("%w: an identity volume takes no mount options", volume.ErrInvalid)
	case req.GetVolumeContext()[kubernetesPrefix+"ephemeral"] != "true":
		return r, fmt.Errorf("%w: an identity volume is inline, in the pod (csi: under volumes:), and no PersistentVolume", volume.ErrInvalid)
	}
	if group := mounted.GetVolumeMountGroup(); group != "" {
		gid, err := strconv.ParseUint(group, 10, 31)
		if err != nil {
			return r, fmt.Errorf("%w: volume_mount_group %q: want the number of a group", volume.ErrInvalid, group)
		}
		r.gid = int(gid)
	}
	var err error
	if r.pod, err = podtoken.PodOf(req.GetVolumeContext()); err != nil {
		return r, err
	}
	if r.spec, err = parseSpec(req.GetVolumeContext()); err != nil {
		return r, err
	}
	if r.source, err = s.cfg.Sources.Find(r.spec.source); err != nil {
		return r, err
	}
	return r, r.source.Validate(r.spec.role, r.spec.list())
}

// token is the one of a request that a source takes, whether or not it is good.
func token(req *csi.NodePublishVolumeRequest, source credential.Source) (podtoken.Token, error) {
	set, err := podtoken.Read(req.GetSecrets(), req.GetVolumeContext())
	if err != nil {
		return podtoken.Token{}, err
	}
	return set.For(source.Audience())
}

// hold is a volume that nothing can be read for yet.
func (s *Server) hold(r request) *held {
	return &held{
		id: r.id, target: r.target, pod: r.pod, gid: r.gid, spec: r.spec,
		pace: s.pace, now: s.now,
		put:    func(files []payload.File, set payload.Set) error { return s.replace(r.target, files, r.gid, set) },
		blank:  func() error { return s.blank(r.target) },
		intact: func(files []payload.File) bool { return s.holds(r.target, files, r.gid) },
		notice: func(reason Reason, text string) { s.notice(r.pod, reason, oneLine(text)) },
		count:  func(outcome string) { s.count(r.spec.source, outcome) },
		have:   map[string]credential.Credential{}, fresh: map[string]credential.Credential{},
		state: State{Pod: r.pod, Source: r.spec.source},
		wake:  make(chan struct{}, 1),
	}
}

// open gives a volume what it reads with.
func (h *held) open(source credential.Source, t podtoken.Token) {
	h.source, h.session = source, source.Open(h.spec.role)
	h.token, h.sum = t, t.Text.Sum()
}

// publish is the first publication: strict. mounted says that the tmpfs is there and
// has no files.
func (s *Server) publish(ctx context.Context, target string, req *csi.NodePublishVolumeRequest, mounted bool) error {
	r, err := s.parse(target, req)
	if err == nil && !mounted && !req.GetReadonly() {
		err = fmt.Errorf("%w: a pod must not write to an identity volume: say readOnly: true in the pod, beside the name of the driver", volume.ErrInvalid)
	}
	var t podtoken.Token
	if err == nil {
		if t, err = token(req, r.source); err == nil {
			err = s.fill(ctx, r, t, mounted)
		}
		if err != nil {
			err = fmt.Errorf("publish %s for pod %s: %w", r.id, r.pod, err)
		}
	}
	if err != nil && mounted {
		return notFinal("the files of a volume that is mounted are gone", err)
	}
	return err
}

// fill reads everything, makes the files of it, and refreshes them from then on.
func (s *Server) fill(ctx context.Context, r request, t podtoken.Token, mounted bool) error {
	h := s.hold(r)
	h.open(r.source, t)
	later, intact := h.put, h.intact
	if mounted {
		h.device = s.deviceAt(r.target)
	} else {
		h.put = func(files []payload.File, set payload.Set) error { return s.mount(ctx, h, files, set) }
	}
	h.intact = func([]payload.File) bool { return false }
	err := h.refresh(ctx, t)
	h.put, h.intact = later, intact
	if err != nil && !errors.Is(err, payload.ErrLeft) {
		s.closeSession(h)
		return err
	}
	h.settle(err)
	// If this fails, what the files hold is not revoked: the driver after this one takes
	// the volume over as it is, and its pod starts with it.
	return s.start(h)
}

// again is a call for a volume that is published. It cannot fail: what is wrong with
// the token shows at the next refresh. A token that cannot be used takes the place of
// none that can.
func (s *Server) again(h *held, req *csi.NodePublishVolumeRequest) {
	t, err := token(req, h.source)
	if err == nil {
		if err = t.Check(h.pod, h.now()); err != nil && !h.usable() {
			h.tell(t)
			return
		}
	}
	if err == nil {
		h.tokenless.Store(false)
		h.tell(t)
	} else if !h.tokenless.Swap(true) {
		s.notice(h.pod, RefreshFailed, fmt.Sprintf("kubelet repeats the publication of volume %s without a token that can be used: %s", h.id, err))
	}
}

// adopt takes over a volume that an earlier driver published. It does not fail either:
// what is wrong now was right when the volume was published, and its pod runs.
//
// A volume that nothing can be read for is held all the same, as an orphan, so that its
// policy applies when its end comes. Each further call tries to adopt it again.
func (s *Server) adopt(target string, orphan *held, req *csi.NodePublishVolumeRequest) error {
	r, err := s.parse(target, req)
	var t podtoken.Token
	if err == nil {
		t, err = token(req, r.source)
	}
	if err != nil && orphan != nil {
		return nil
	}
	if err != nil && r.pod == (podtoken.Pod{}) {
		return fmt.Errorf("%w: refresh what is published at %s: %s", volume.ErrUnavailable, target, err.Error())
	}
	h := s.hold(r)
	h.before, h.device = s.endAt(target), s.deviceAt(target)
	if err == nil {
		h.open(r.source, t)
	} else {
		h.orphaned = fmt.Errorf("an earlier driver published it, and now: %w", err)
		if h.spec.policy = policyOf(req.GetVolumeContext()); h.spec.policy == "" {
			h.spec.policy = Keep
		}
		h.count = func(string) {}
	}
	h.state.Fenced = h.spec.policy == Fence && s.emptied(target)
	if orphan != nil {
		s.drop(orphan)
		h.state.Fenced, h.state.Failing = orphan.state.Fenced, orphan.state.Failing
	}
	h.wake <- struct{}{}
	return s.start(h)
}
