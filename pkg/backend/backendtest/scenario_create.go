package backendtest

import (
	"math"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func createScenarios() []scenario {
	return []scenario{
		{name: "create an ext4 volume", changes: true, run: func(s *session) {
			s.act()
			s.createsExactly(s.spec("a", small, ext4), small, volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4, SectorSize: 4096})
		}},
		{name: "create a volume of the default filesystem", changes: true, run: func(s *session) {
			s.act()
			s.createsExactly(s.spec("a", small, inherit), small, volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4, SectorSize: 4096})
		}},
		{name: "create an xfs volume", changes: true, run: func(s *session) {
			s.act()
			s.createsExactly(s.spec("a", xfs.MinSize(), xfs), xfs.MinSize(), volume.Format{Mode: volume.ModeFilesystem, FSType: volume.XFS, SectorSize: 4096})
		}},
		{name: "create a block volume", changes: true, run: func(s *session) {
			s.act()
			s.createsExactly(s.spec("a", small, block), small, volume.Format{Mode: volume.ModeBlock, SectorSize: 4096})
		}},
		{name: "create a block volume with 512-byte sectors", changes: true, run: func(s *session) {
			s.act()
			f := volume.Format{Mode: volume.ModeBlock, SectorSize: 512}
			s.createsExactly(s.spec("a", small, f), small, f)
		}},
		{name: "create an ext4 volume with an inode ratio", changes: true, run: func(s *session) {
			s.act()
			f := volume.Format{Mode: volume.ModeFilesystem, FSType: volume.Ext4, SectorSize: 4096, InodeRatio: volume.InodeRatios[0]}
			s.createsExactly(s.spec("a", small, f), small, f)
		}},
		{name: "a hostile name is only a name", table: true, changes: true, run: func(s *session) {
			s.act()
			for _, name := range []string{
				"../../../etc/passwd", "/", ".", " ", "-rf", "a\x00b", "new\nline", "%s%n", "\xff\xfe", "ü", strings.Repeat("long", 1<<10),
			} {
				s.created(s.spec(name, volume.MiB, block))
			}
		}},
		{name: "the same create is the same volume", run: func(s *session) {
			spec := s.spec("a", small, ext4)
			v := s.created(spec)
			s.act()
			s.same("the same create", v, s.created(spec))
			for what, change := range map[string]func(*volume.Spec){
				"the default filesystem":       func(c *volume.Spec) { c.Format = inherit },
				"a smaller size":               func(c *volume.Spec) { c.Size = small / 2 },
				"a limit of its size":          func(c *volume.Spec) { c.Limit = small },
				"a limit above its size":       func(c *volume.Spec) { c.Limit = 2 * small },
				"its own pool among many":      func(c *volume.Spec) { c.Allowed = []volume.PoolID{foreignPool, v.ID.Pool()} },
				"the sector size that it has":  func(c *volume.Spec) { c.Format.SectorSize = 4096 },
				"the size that it has rounded": func(c *volume.Spec) { c.Size = small - 1 },
			} {
				again := spec
				change(&again)
				s.same("the same create with "+what, v, s.created(again))
			}
		}},
		{name: "the same create after an expansion is the same volume", needs: []need{needExpansion}, run: func(s *session) {
			spec := s.spec("a", small, ext4)
			v := s.created(spec)
			v, err := s.expand(v.ID, 2*small, 0)
			s.succeeds(err, "expand")
			s.act()
			s.same("the same create", v, s.created(spec))
		}},
		{name: "a create that differs finds the name taken", run: func(s *session) {
			spec := s.spec("a", small, ext4)
			v := s.created(spec)
			s.act()
			for what, change := range map[string]func(*volume.Spec){
				"a larger size":       func(c *volume.Spec) { c.Size = small + 1 },
				"a limit below":       func(c *volume.Spec) { c.Size, c.Limit = small/2, small/2 },
				"another filesystem":  func(c *volume.Spec) { c.Format = xfs },
				"another mode":        func(c *volume.Spec) { c.Format = block },
				"another inode ratio": func(c *volume.Spec) { c.Format.InodeRatio = volume.InodeRatios[0] },
				"no allowed pool":     func(c *volume.Spec) { c.Allowed = []volume.PoolID{foreignPool} },
			} {
				again := spec
				change(&again)
				_, err := s.create(again)
				s.refused(err, volume.ErrExists, "create the same name with "+what)
				s.isVolume(v)
			}
		}},
		{name: "a create with another sector size finds the name taken", run: func(s *session) {
			spec := s.spec("a", small, block)
			v := s.created(spec)
			s.act()
			spec.Format.SectorSize = 512
			_, err := s.create(spec)
			s.refused(err, volume.ErrExists, "create the same name with another sector size")
			s.isVolume(v)
		}},
		{name: "a create with another source finds the name taken", needs: []need{needSnapshots, needClones}, run: func(s *session) {
			source := s.created(s.spec("source", small, ext4))
			snap := s.snapshotted(s.snapshotSpec("snap", source.ID))
			fromNothing := s.spec("nothing", small, ext4)
			fromVolume := s.copySpec("volume", small, ext4, source.ID)
			fromSnapshot := s.copySpec("snapshot", small, ext4, snap.ID)
			for _, spec := range []volume.Spec{fromNothing, fromVolume, fromSnapshot} {
				s.created(spec)
			}
			s.act()
			for _, have := range []volume.Spec{fromNothing, fromVolume, fromSnapshot} {
				for _, want := range []volume.Spec{fromNothing, fromVolume, fromSnapshot} {
					if have.Name == want.Name {
						continue
					}
					again := have
					again.Source = want.Source
					_, err := s.create(again)
					s.refused(err, volume.ErrExists, "create volume "+have.Name+" with the source of "+want.Name)
				}
			}
		}},
		{name: "a request that can never work is invalid", run: func(s *session) {
			s.act()
			for what, change := range map[string]func(*volume.Spec){
				"an unknown mode":                 func(c *volume.Spec) { c.Format.Mode = "tape" },
				"no mode":                         func(c *volume.Spec) { c.Format.Mode = "" },
				"an unknown filesystem":           func(c *volume.Spec) { c.Format.FSType = "btrfs; rm -rf /" },
				"a filesystem on a block volume":  func(c *volume.Spec) { c.Format = volume.Format{Mode: volume.ModeBlock, FSType: volume.Ext4} },
				"an unknown sector size":          func(c *volume.Spec) { c.Format = volume.Format{Mode: volume.ModeBlock, SectorSize: 1024} },
				"512-byte sectors under a fs":     func(c *volume.Spec) { c.Format.SectorSize = 512 },
				"an unknown inode ratio":          func(c *volume.Spec) { c.Format.InodeRatio = 5000 },
				"an inode ratio for xfs":          func(c *volume.Spec) { c.Format = xfs; c.Format.InodeRatio = volume.InodeRatios[0] },
				"an inode ratio for block":        func(c *volume.Spec) { c.Format = block; c.Format.InodeRatio = volume.InodeRatios[0] },
				"a limit below the required size": func(c *volume.Spec) { c.Limit = c.Size - 1 },
				"a negative size":                 func(c *volume.Spec) { c.Size = -1 },
				"a negative limit":                func(c *volume.Spec) { c.Limit = math.MinInt64 },
				"an unknown pool":                 func(c *volume.Spec) { c.Pool = "../default" },
			} {
				spec := s.spec("a", small, ext4)
				change(&spec)
				_, err := s.create(spec)
				s.refused(err, volume.ErrInvalid, "create a volume with "+what)
				s.same("the list of volumes", []volume.Volume(nil), s.volumes())
			}
		}},
	}
}

// createsExactly creates a volume from nothing and checks every property of it.
func (s *session) createsExactly(spec volume.Spec, size volume.Bytes, f volume.Format) volume.Volume {
	v := s.created(spec)
	pool := s.engine().Pools()[0].ID
	s.same("the new volume", volume.Volume{
		ID: volume.NewID(volume.KindVolume, pool, spec.Name), Name: spec.Name, Size: size, Format: f, BirthSize: size, Created: v.Created,
	}, v)
	return v
}
