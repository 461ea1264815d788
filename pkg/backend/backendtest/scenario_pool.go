package backendtest

import (
	"context"
	"errors"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// foreignPool is the id of a pool that no engine under test has.
const foreignPool volume.PoolID = "0123456789abcdef"

func poolScenarios() []scenario {
	return []scenario{
		{name: "pools have ids and names", once: true, run: func(s *session) {
			pools := s.engine().Pools()
			if len(pools) == 0 {
				s.failf("the engine has no pools")
			}
			ids, names := map[volume.PoolID]bool{}, map[string]bool{}
			for _, p := range pools {
				if _, err := volume.ParsePoolID(string(p.ID)); err != nil {
					s.failf("pool %q: %w", p.Name, err)
				}
				if ids[p.ID] || names[p.Name] || !p.Available || p.Reason != "" {
					s.failf("a pool is there twice, or not available: %+v", pools)
				}
				ids[p.ID], names[p.Name] = true, true
			}
			s.same("the pools asked for again", pools, s.engine().Pools())
		}},
		{name: "capacity is that of the pools asked for", once: true, run: func(s *session) {
			for _, p := range s.engine().Pools() {
				for what, c := range map[string]backend.Capacity{
					"of its name": s.capacity(p.Name, nil),
					"of its id":   s.capacity("", []volume.PoolID{p.ID}),
					"of both":     s.capacity(p.Name, []volume.PoolID{foreignPool, p.ID}),
					"of any":      s.capacity("", nil),
				} {
					if c.Available < volume.GiB || c.MaxVolume < volume.GiB {
						s.failf("the capacity %s of the empty pool %s is %+v", what, p.Name, c)
					}
				}
				s.same("the capacity of the pool among others", backend.Capacity{}, s.capacity(p.Name, []volume.PoolID{foreignPool}))
			}
			s.same("the capacity of an unknown pool", backend.Capacity{}, s.capacity("nowhere", nil))
			s.same("the capacity of an unknown pool id", backend.Capacity{}, s.capacity("", []volume.PoolID{foreignPool}))
		}},
		{name: "a volume in no allowed pool is refused", run: func(s *session) {
			s.act()
			spec := s.spec("a", small, ext4)
			spec.Allowed = []volume.PoolID{foreignPool}
			_, err := s.create(spec)
			s.refused(err, volume.ErrNoSpace, "create a volume in no allowed pool")
		}},
		{name: "a copy in no allowed pool is refused", needs: []need{needClones}, run: func(s *session) {
			source := s.created(s.spec("source", small, ext4))
			s.act()
			spec := s.copySpec("a", small, ext4, source.ID)
			spec.Allowed = []volume.PoolID{foreignPool}
			_, err := s.create(spec)
			s.refused(err, volume.ErrNoSpace, "clone a volume that is in no allowed pool")
		}},
		{name: "a volume goes into the pool of its class, or the default", needs: []need{needTwoPools}, table: true, changes: true, run: func(s *session) {
			s.act()
			for _, p := range s.engine().Pools() {
				spec := s.spec(p.Name, small, block)
				spec.Pool = p.Name
				s.inPool(s.created(spec), p)
				if p.Name == "default" {
					spec := s.spec("no pool", small, block)
					spec.Pool = ""
					s.inPool(s.created(spec), p)
				}
			}
		}},
		{name: "a copy goes into the pool of its source", needs: []need{needTwoPools, needClones, needSnapshots}, table: true, changes: true, run: func(s *session) {
			s.act()
			for _, p := range s.engine().Pools() {
				spec := s.spec(p.Name, small, block)
				spec.Pool = p.Name
				v := s.created(spec)
				snap := s.snapshotted(s.snapshotSpec("of "+p.Name, v.ID))
				if snap.ID.Pool() != p.ID {
					s.failf("a snapshot of a volume in pool %s is in pool %s", p.ID, snap.ID.Pool())
				}
				s.inPool(s.created(s.copySpec("clone of "+p.Name, small, block, v.ID)), p)
				named := s.copySpec("restore of "+p.Name, small, block, snap.ID)
				named.Pool = p.Name
				s.inPool(s.created(named), p)
			}
		}},
		{name: "a copy into another pool is refused", needs: []need{needTwoPools, needClones}, run: func(s *session) {
			source := s.created(s.spec("source", small, ext4))
			s.act()
			spec := s.copySpec("a", small, ext4, source.ID)
			spec.Pool = s.engine().Pools()[1].Name
			_, err := s.create(spec)
			s.refusedWith(err, "clone a volume into another pool", volume.ErrInvalid, volume.ErrNoSpace)
		}},
		{name: "a name is taken in every pool", needs: []need{needTwoPools}, run: func(s *session) {
			spec := s.spec("a", small, ext4)
			v := s.created(spec)
			s.act()
			spec.Pool = s.engine().Pools()[1].Name
			_, err := s.create(spec)
			s.refused(err, volume.ErrExists, "create the same name in another pool")
			s.isVolume(v)
		}},
		{name: "what is in a pool that is not here is unavailable", once: true, needs: []need{needClones, needSnapshots, needExpansion}, run: func(s *session) {
			s.unreachable(volume.NewID(volume.KindVolume, foreignPool, "v"), volume.NewID(volume.KindSnapshot, foreignPool, "s"),
				volume.ErrUnavailable, volume.ErrNoSpace)
		}},
		{name: "a pool that is away is unavailable and the others go on", needs: []need{needUnavailable, needClones, needSnapshots, needExpansion}, alone: true, once: true, run: poolAway},
		{name: "a context that has ended changes nothing", needs: []need{needSnapshots, needExpansion}, once: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			snap := s.snapshotted(s.snapshotSpec("s", v.ID))
			before := s.objects()
			ctx, cancel := context.WithCancel(s.ctx)
			cancel()
			_, create := s.engine().CreateVolume(ctx, s.spec("b", small, block))
			_, take := s.engine().CreateSnapshot(ctx, s.snapshotSpec("t", v.ID))
			_, expand := s.engine().ExpandVolume(ctx, v.ID, 2*small, 0)
			for what, err := range map[string]error{
				"CreateVolume": create, "CreateSnapshot": take, "ExpandVolume": expand,
				"DeleteVolume": s.engine().DeleteVolume(ctx, v.ID), "DeleteSnapshot": s.engine().DeleteSnapshot(ctx, snap.ID),
			} {
				if !errors.Is(err, context.Canceled) {
					s.failf("%s with a context that has ended: want its error, got: %w", what, answered(err))
				}
			}
			s.same("the objects after calls with a context that had ended", before, s.objects())
		}},
	}
}

func (s *session) inPool(v volume.Volume, p volume.Pool) {
	if v.ID.Pool() != p.ID {
		s.failf("volume %s is in pool %s, want pool %s (%s)", v.Name, v.ID.Pool(), p.Name, p.ID)
	}
}

// unreachable checks every call on objects whose pool is away. A copy of them
// may also be refused with one of the other sentinels.
func (s *session) unreachable(v, snap volume.ID, forCopies ...error) {
	p := s.engine()
	_, find := p.Volume(s.ctx, v)
	_, findSnapshot := p.Snapshot(s.ctx, snap)
	_, expand := p.ExpandVolume(s.ctx, v, 2*small, 0)
	_, take := p.CreateSnapshot(s.ctx, s.snapshotSpec("unreachable", v))
	for what, err := range map[string]error{
		"Volume": find, "Snapshot": findSnapshot, "ExpandVolume": expand, "CreateSnapshot": take,
		"DeleteVolume": p.DeleteVolume(s.ctx, v), "DeleteSnapshot": p.DeleteSnapshot(s.ctx, snap),
	} {
		s.refused(err, volume.ErrUnavailable, what+" in a pool that is away")
	}
	for _, source := range []volume.ID{v, snap} {
		_, err := p.CreateVolume(s.ctx, s.copySpec("unreachable", small, ext4, source))
		s.refusedWith(err, "copy "+string(source)+", whose pool is away", forCopies...)
	}
	if a := p.Attacher; a != nil {
		_, err := a.Volume(s.ctx, v)
		s.refused(err, volume.ErrUnavailable, "Attacher.Volume in a pool that is away")
		_, err = s.attach(v)
		s.refused(err, volume.ErrUnavailable, "Attach in a pool that is away")
	}
}

func poolAway(s *session) {
	spec := s.spec("a", small, ext4)
	v := s.created(spec)
	snap := s.snapshotted(s.snapshotSpec("s", v.ID))
	pools := s.engine().Pools()
	pool := pools[0]

	restore, err := s.engine().Unavailable(pool.Name)
	s.succeeds(err, "take pool "+pool.Name+" away")
	restored := false
	defer func() {
		if !restored {
			restore()
		}
	}()

	s.unreachable(v.ID, snap.ID, volume.ErrUnavailable)
	for _, name := range []string{"a", "b"} {
		_, err = s.engine().CreateVolume(s.ctx, s.spec(name, small, ext4))
		s.refused(err, volume.ErrUnavailable, "create volume "+name+" in a pool that is away")
	}
	s.same("the volumes while the pool is away", []volume.Volume(nil), s.volumes())
	s.same("the snapshots while the pool is away", []volume.Snapshot(nil), s.snapshots())
	s.same("the capacity while the pool is away", backend.Capacity{}, s.capacity(pool.Name, nil))
	for i, p := range s.engine().Pools() {
		if p.ID != pools[i].ID || p.Name != pools[i].Name {
			s.failf("pools %+v have become %+v", pools, s.engine().Pools())
		}
		if away := p.ID == pool.ID; p.Available == away || (p.Reason != "") != away {
			s.failf("pool %s is away, the pools are %+v: want it not available, with the reason", pool.Name, s.engine().Pools())
		}
	}
	for _, other := range pools[1:] {
		spec := s.spec("in "+other.Name, small, block)
		spec.Pool = other.Name
		s.created(spec)
		s.capacity(other.Name, nil)
	}

	restore()
	restored = true
	s.isVolume(v)
	s.isSnapshot(snap)
	s.same("the same create after the pool is back", v, s.created(spec))
}
