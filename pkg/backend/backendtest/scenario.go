package backendtest

import (
	"errors"
	"slices"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// scenario is one promise of the contract. What run makes before it calls act is
// given; what comes after is repeated and meets faults.
type scenario struct {
	name  string
	needs []need
	// changes says that something is changed after act, so that there are steps.
	changes bool
	// table: it makes the calls of other scenarios with many arguments, so that it
	// has nothing new to show at their steps.
	table bool
	// once: it runs plain only, because it is concurrent by itself or because the
	// other ways add nothing.
	once bool
	// alone: it needs the pools for itself.
	alone bool
	run   func(s *session)
}

// need is what an engine must have for a scenario to make sense: a reason to
// skip, or "".
type need func(e Engine) string

func (sc scenario) skip(e Engine) string {
	for _, n := range sc.needs {
		if reason := n(e); reason != "" {
			return reason
		}
	}
	return ""
}

func needSnapshots(e Engine) string {
	return reasonIf(!e.Capabilities().Snapshots, "the engine has no snapshots")
}

func needClones(e Engine) string {
	return reasonIf(!e.Capabilities().Clones, "the engine has no clones")
}

func needExpansion(e Engine) string {
	return reasonIf(!e.Capabilities().Expansion, "the engine cannot expand volumes")
}

func needContent(e Engine) string {
	return reasonIf(e.Content == nil, "the test has no access to the content of volumes")
}

func needAttacher(e Engine) string { return reasonIf(e.Attacher == nil, "the test has no Attacher") }

func needUnavailable(e Engine) string {
	return reasonIf(e.Unavailable == nil, "the test cannot take a pool away")
}

func needTwoPools(e Engine) string { return reasonIf(len(e.Pools()) < 2, "the engine has one pool") }

func reasonIf(missing bool, reason string) string {
	if missing {
		return reason
	}
	return ""
}

func scenarios() []scenario {
	return slices.Concat(createScenarios(), sizeScenarios(), poolScenarios(), deleteScenarios(), expandScenarios(),
		snapshotScenarios(), copyScenarios(), listScenarios(), contentScenarios(), attachScenarios(), healthScenarios(), raceScenarios())
}

// small is the size of most volumes: above the least of every format but xfs.
const small = 32 * volume.MiB

var (
	ext4  = volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4}
	xfs   = volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS}
	block = volume.Format{Mode: volume.ModeBlock}
	// inherit is what a copy of a filesystem volume asks for when it leaves the
	// type to its source.
	inherit = volume.Format{Mode: volume.ModeFilesystem}
)

// sentinels are all that an error can wrap.
var sentinels = []error{
	volume.ErrInvalid, volume.ErrNotFound, volume.ErrExists, volume.ErrInUse, volume.ErrPrecondition, volume.ErrNoSpace,
	volume.ErrOutOfRange, volume.ErrUnavailable, volume.ErrBusy, volume.ErrBadToken, volume.ErrDataLoss,
}

// sentinelOf is the sentinel that err wraps, nil if there is none.
func sentinelOf(err error) error {
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			return sentinel
		}
	}
	return nil
}

func (s *session) name(name string) string { return s.prefix + name }

// spec asks for an empty volume in the first pool.
func (s *session) spec(name string, size volume.Bytes, f volume.Format) volume.Spec {
	return volume.Spec{Name: s.name(name), Pool: s.engine().Pools()[0].Name, Size: size, Format: f}
}

// copySpec asks for a copy of a volume or a snapshot.
func (s *session) copySpec(name string, size volume.Bytes, f volume.Format, source volume.ID) volume.Spec {
	spec := volume.Spec{Name: s.name(name), Size: size, Format: f}
	if source.Kind() == volume.KindSnapshot {
		spec.Source.Snapshot = source
	} else {
		spec.Source.Volume = source
	}
	return spec
}

func (s *session) snapshotSpec(name string, source volume.ID) volume.SnapshotSpec {
	return volume.SnapshotSpec{Name: s.name(name), Source: source, Consistency: volume.ConsistencyFilesystem}
}

// created is a volume that must come about.
func (s *session) created(spec volume.Spec) volume.Volume {
	v, err := s.create(spec)
	s.succeeds(err, "create volume "+spec.Name)
	s.completeVolume(v)
	if v.Name != spec.Name || v.Source != spec.Source {
		s.failf("created %+v, asked for %+v", v, spec)
	}
	s.isVolume(v)
	return v
}

// snapshotted is a snapshot that must come about.
func (s *session) snapshotted(spec volume.SnapshotSpec) volume.Snapshot {
	snap, err := s.snapshot(spec)
	s.succeeds(err, "create snapshot "+spec.Name)
	s.completeSnapshot(snap)
	if snap.Name != spec.Name || snap.Source != spec.Source || snap.Consistency != spec.Consistency {
		s.failf("created %+v, asked for %+v", snap, spec)
	}
	s.isSnapshot(snap)
	return snap
}

// isVolume checks that a volume is found with exactly these properties.
func (s *session) isVolume(want volume.Volume) {
	got, err := s.engine().Volume(s.ctx, want.ID)
	s.succeeds(err, "find volume "+string(want.ID))
	s.same("volume "+want.Name, want, got)
}

// isSnapshot checks that a snapshot is found with exactly these properties.
func (s *session) isSnapshot(want volume.Snapshot) {
	got, err := s.engine().Snapshot(s.ctx, want.ID)
	s.succeeds(err, "find snapshot "+string(want.ID))
	s.same("snapshot "+want.Name, want, got)
}

// noVolume checks that a volume is neither found nor listed.
func (s *session) noVolume(id volume.ID) {
	_, err := s.engine().Volume(s.ctx, id)
	s.refused(err, volume.ErrNotFound, "find a volume that does not exist")
	for _, v := range s.volumes() {
		if v.ID == id {
			s.failf("volume %s is not found, but listed", id)
		}
	}
}

// noSnapshot checks that a snapshot is neither found nor listed.
func (s *session) noSnapshot(id volume.ID) {
	_, err := s.engine().Snapshot(s.ctx, id)
	s.refused(err, volume.ErrNotFound, "find a snapshot that does not exist")
	for _, snap := range s.snapshots() {
		if snap.ID == id {
			s.failf("snapshot %s is not found, but listed", id)
		}
	}
}

func (s *session) succeeds(err error, what string) {
	if err != nil {
		s.failf("%s: %w", what, err)
	}
}

// refused checks that err wraps the sentinel and no other.
func (s *session) refused(err, sentinel error, what string) {
	s.refusedWith(err, what, sentinel)
}

// refusedWith checks that err wraps one of the allowed sentinels and no other.
func (s *session) refusedWith(err error, what string, allowed ...error) {
	if err == nil {
		s.failf("%s: want one of %q, it succeeds", what, allowed)
	}
	var wrapped []error
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			wrapped = append(wrapped, sentinel)
		}
	}
	if len(wrapped) != 1 || !slices.Contains(allowed, wrapped[0]) {
		s.failf("%s: want exactly one of %q, the error wraps %q: %w", what, allowed, wrapped, err)
	}
}

func (s *session) same(what string, want, got any) {
	if diff := cmp.Diff(want, got); diff != "" {
		s.failf("%s is not what it must be (-want +got):\n%s", what, diff)
	}
}

// capacity is checked for what always holds.
func (s *session) capacity(pool string, allowed []volume.PoolID) backend.Capacity {
	c, err := s.engine().Capacity(s.ctx, pool, allowed)
	s.succeeds(err, "capacity of pool "+pool)
	if c.Available < 0 || c.MaxVolume < 0 || c.MaxVolume > c.Available || c.MaxVolume > volume.MaxSize {
		s.failf("the capacity of pool %q cannot be: %d bytes available, the largest volume has %d", pool, c.Available, c.MaxVolume)
	}
	return c
}
