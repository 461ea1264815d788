package backendtest

import (
	"time"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func attachScenarios() []scenario {
	attacher := []need{needAttacher}
	return []scenario{
		{name: "attach and detach a block volume", needs: attacher, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			dev := s.attached(v)
			s.sameDevice(dev, s.attached(v))
			s.sameDevice(dev, s.lookup(v.ID))
			s.closeDevices()
			s.sameDevice(dev, s.lookup(v.ID)) // it stays until Detach
			s.closeDevices()
			s.succeeds(s.detach(v.ID), "detach")
			s.notAttached(v.ID)
			s.isVolume(v)
		}},
		{name: "attach and detach a filesystem volume", needs: attacher, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, ext4))
			s.act()
			dev := s.attached(v)
			s.sameDevice(dev, s.lookup(v.ID))
			s.closeDevices()
			s.succeeds(s.detach(v.ID), "detach")
			s.notAttached(v.ID)
		}},
		{name: "attach a block volume with 512-byte sectors", needs: attacher, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, volume.Format{Mode: volume.ModeBlock, SectorSize: 512}))
			s.act()
			s.attached(v)
		}},
		{name: "different volumes have different devices", needs: attacher, changes: true, run: func(s *session) {
			a, b := s.created(s.spec("a", small, block)), s.created(s.spec("b", small, block))
			s.act()
			first, second := s.attached(a), s.attached(b)
			if first.Path == second.Path || first.Major == second.Major && first.Minor == second.Minor {
				s.failf("two volumes have the same device: %+v and %+v", *first, *second)
			}
		}},
		{name: "what does not exist is not attached", needs: attacher, once: true, run: func(s *session) {
			never := volume.NewID(volume.KindVolume, s.engine().Pools()[0].ID, s.name("never"))
			for _, id := range []volume.ID{never, "", "../../dev/sda"} {
				_, err := s.attach(id)
				s.refused(err, volume.ErrNotFound, "attach a volume that does not exist")
				s.notAttached(id)
				s.succeeds(s.detach(id), "detach a volume that does not exist")
			}
			v := s.created(s.spec("a", small, block))
			s.succeeds(s.detach(v.ID), "detach a volume that is not attached")
			s.succeeds(s.refresh(v.ID), "refresh a volume that is not attached")
			s.notAttached(v.ID)
		}},
		{name: "a volume that is attached is not deleted", needs: attacher, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			dev := s.attached(v)
			s.act()
			s.refused(s.deleteVolume(v.ID), volume.ErrInUse, "delete a volume that is attached")
			s.isVolume(v)
			s.sameDevice(dev, s.lookup(v.ID))
			s.closeDevices()
			s.succeeds(s.detach(v.ID), "detach")
			s.notAttached(v.ID)
			s.succeeds(s.deleteVolume(v.ID), "delete a volume that was detached")
			s.noVolume(v.ID)
		}},
		{name: "an attached filesystem volume is copied", needs: []need{needAttacher, needSnapshots, needClones}, changes: true,
			run: func(s *session) { s.copiesAttached(ext4) }},
		{name: "an attached block volume is copied", needs: []need{needAttacher, needSnapshots, needClones}, changes: true,
			run: func(s *session) { s.copiesAttached(block) }},
		{name: "an attached volume is expanded", needs: []need{needAttacher, needExpansion}, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			dev := s.attached(v)
			s.act()
			v = s.expandsTo(v, 2*small, 0, 2*small)
			s.succeeds(s.refresh(v.ID), "refresh")
			now := s.lookup(v.ID)
			if now == nil || now.Path != dev.Path || now.Size != 2*small {
				s.failf("the device of the expanded volume was %+v and is %+v, want it with %s", *dev, now, 2*small)
			}
		}},
		{name: "an expansion before attach needs no refresh", needs: []need{needAttacher, needExpansion}, changes: true, run: func(s *session) {
			v := s.created(s.spec("a", small, block))
			s.act()
			s.attached(s.expandsTo(v, 2*small, 0, 2*small))
		}},
	}
}

// attached attaches a volume; the device must be there, with its size. It is open
// until closeDevices.
func (s *session) attached(v volume.Volume) *backend.Device {
	dev, err := s.attach(v.ID)
	s.succeeds(err, "attach")
	if dev.Path == "" || dev.Size != v.Size {
		s.failf("the device of a volume of %d bytes is %+v", v.Size, *dev)
	}
	return dev
}

// copiesAttached copies a volume in every way while it is attached.
func (s *session) copiesAttached(f volume.Format) {
	v := s.created(s.spec("a", small, f))
	dev := s.attached(v)
	s.act()
	snap := s.snapshotsExactly(v, s.snapshotSpec("s", v.ID))
	s.copiesExactly(v, s.copySpec("clone", small, f, v.ID), small)
	s.verify()
	s.copiesExactly(v, s.copySpec("restore", small, f, snap.ID), small)
	s.sameDevice(dev, s.lookup(v.ID))
}

func (s *session) sameDevice(want, got *backend.Device) {
	if got == nil || got.Path != want.Path || got.Major != want.Major || got.Minor != want.Minor || got.Size != want.Size {
		s.failf("the device was %+v and is now %+v", *want, got)
	}
}

// settleTime is how long somebody else on the machine may keep a device open
// that was detached, such as udev or another test that looks at all devices.
const settleTime = 3 * time.Second

// notAttached checks that a volume has no device, or soon has none.
func (s *session) notAttached(id volume.ID) {
	for end := time.Now().Add(settleTime); ; time.Sleep(10 * time.Millisecond) {
		dev := s.lookup(id)
		if dev == nil {
			return
		}
		s.closeDevices()
		if time.Now().After(end) {
			s.failf("%s is not attached, but has device %+v", id, *dev)
		}
	}
}
