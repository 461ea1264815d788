package backendtest

import (
	"context"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func healthScenarios() []scenario {
	attacher := []need{needAttacher}
	return []scenario{
		{name: "what is well has no conditions", once: true, needs: attacher, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			s.wellBoth(v.ID)
			s.attached(v)
			s.wellBoth(v.ID)
			s.closeDevices()
			s.succeeds(s.detach(v.ID), "detach")
			s.wellBoth(v.ID)
			s.poolConditions("")
		}},
		{name: "the health of what does not exist", once: true, run: func(s *session) {
			never := volume.NewID(volume.KindVolume, s.engine().Pools()[0].ID, s.name("never"))
			snapshot := volume.NewID(volume.KindSnapshot, s.engine().Pools()[0].ID, s.name("never"))
			for _, id := range []volume.ID{never, snapshot, "", "../../dev/sda"} {
				_, err := s.engine().Health(s.ctx, id)
				s.refused(err, volume.ErrNotFound, "Health of a volume that does not exist")
			}
			_, err := s.engine().Health(s.ctx, volume.NewID(volume.KindVolume, foreignPool, "v"))
			s.refused(err, volume.ErrUnavailable, "Health of a volume in a pool that was never here")
		}},
		{name: "what is deleted has no health", once: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.succeeds(s.deleteVolume(v.ID), "delete")
			_, err := s.engine().Health(s.ctx, v.ID)
			s.refused(err, volume.ErrNotFound, "Health of a volume that was deleted")
			s.unhealthy(v.ID, false)
		}},
		{name: "the volumes of a pool that is away are inaccessible", needs: []need{needUnavailable, needAttacher}, alone: true, once: true, run: healthAway},
	}
}

func healthAway(s *session) {
	v := s.created(s.spec("a", small, ext4))
	pool := s.engine().Pools()[0]
	restore, err := s.engine().Unavailable(pool.Name)
	s.succeeds(err, "take pool "+pool.Name+" away")
	defer func() {
		if restore != nil {
			restore()
		}
	}()
	never := volume.NewID(volume.KindVolume, pool.ID, s.name("never"))
	for _, id := range []volume.ID{v.ID, never} {
		conditions, err := s.engine().Health(s.ctx, id)
		s.succeeds(err, "Health in a pool that is away")
		if len(conditions) == 0 || conditions[0].Severity != volume.Inaccessible {
			s.failf("the health of %s, whose pool is away, is %+v: want it inaccessible", id, conditions)
		}
		s.wellFormed(conditions)
	}
	s.poolConditions(pool.Name)
	restore()
	restore = nil
	s.wellBoth(v.ID)
	s.poolConditions("")
}

// wellBoth checks that nothing is wrong with a volume, whoever is asked.
func (s *session) wellBoth(id volume.ID) {
	for what, health := range map[string]interface {
		Health(context.Context, volume.ID) ([]volume.Condition, error)
	}{"Provisioner": s.engine().Provisioner, "Attacher": s.engine().Attacher} {
		conditions, err := health.Health(s.ctx, id)
		s.succeeds(err, what+".Health")
		if len(conditions) > 0 {
			s.failf("%s.Health(%s) = %+v, want none", what, id, conditions)
		}
	}
	s.unhealthy(id, false)
}

// unhealthy checks whether a volume is in the list of those with something wrong.
func (s *session) unhealthy(id volume.ID, want bool) {
	all, err := s.engine().Unhealthy(s.ctx)
	s.succeeds(err, "Unhealthy")
	if !slices.IsSortedFunc(all, func(a, b volume.Health) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
		s.failf("Unhealthy is not in order of id: %+v", all)
	}
	for _, h := range all {
		if len(h.Conditions) == 0 {
			s.failf("Unhealthy has %s, with which nothing is wrong", h.ID)
		}
		s.wellFormed(h.Conditions)
	}
	if got := slices.ContainsFunc(all, func(h volume.Health) bool { return h.ID == id }); got != want {
		s.failf("%s is among the unhealthy: %t, want %t", id, got, want)
	}
}

// poolConditions checks that the pools are well, all but the one of this name, which
// is inaccessible.
func (s *session) poolConditions(away string) {
	pools := s.engine().Pools()
	all, err := s.engine().Attacher.StorageHealth(s.ctx)
	s.succeeds(err, "StorageHealth")
	if len(all) != len(pools) {
		s.failf("StorageHealth has %d entries for %d pools", len(all), len(pools))
	}
	for i, h := range all {
		if h.Pool.ID != pools[i].ID || h.Pool.Name != pools[i].Name {
			s.failf("StorageHealth is of pool %+v where Pools has %+v", h.Pool, pools[i])
		}
		s.wellFormed(h.Conditions)
		isAway := len(h.Conditions) > 0 && h.Conditions[0].Severity == volume.Inaccessible
		if isAway != (h.Pool.Name == away) || !isAway && len(h.Conditions) > 0 {
			s.failf("pool %q is away, the health of pool %s is %+v", away, h.Pool.Name, h.Conditions)
		}
	}
}

// wellFormed checks that conditions are in order, and their reasons words.
func (s *session) wellFormed(conditions []volume.Condition) {
	s.same("the conditions in their order", volume.Conditions(conditions), conditions)
	for _, c := range conditions {
		if c.Reason == "" || strings.ToUpper(c.Reason[:1]) != c.Reason[:1] || strings.ContainsAny(c.Reason, " .-_") || c.Message == "" {
			s.failf("want a CamelCase reason and a message: %+v", c)
		}
	}
}
