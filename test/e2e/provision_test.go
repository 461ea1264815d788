package e2e

import (
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAClaimWaitsForItsFirstPod(t *testing.T) {
	t.Parallel()
	for _, class := range []string{classExt4, classXFS} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.claim(newClaim("app", class, smallOf(class)))
			s.awaitEvent("app", "WaitForFirstConsumer", "waiting for first consumer")
			app := s.run(idle("app", "app"))
			s.hasRoom(app, smallOf(class))
			app.write("/data/file", 1)
			app.verify("/data/file", 1)
		})
	}
}

func TestAnImmediateClaimIsBoundWithoutAPod(t *testing.T) {
	t.Parallel()
	for _, class := range []string{classExt4, classXFS} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.claim(newClaim("app", s.immediate(class), smallOf(class)))
			s.awaitClaim("app", "is bound", bound)
			app := s.run(idle("app", "app"))
			s.hasRoom(app, smallOf(class))
			app.write("/data/file", 1)
			app.verify("/data/file", 1)
		})
	}
}

// hasRoom demands that a pod sees a filesystem of about this size at dataDir: a
// filesystem needs some of a volume for itself, an xfs 64 MiB for its log. So a
// growth is seen if it is by half at least.
func (s *scene) hasRoom(p *pod, size string) {
	s.t.Helper()
	want, err := volume.ParseBytes(size)
	s.must(err)
	if have := p.space(dataDir); have < want*3/4 || have > want {
		s.t.Errorf("pod %s sees a filesystem of %s, its claim is of %s", p.name, have, want)
	}
}

func TestABlockVolumeIsADeviceThatOutlivesItsPod(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	app := s.runClaim(newBlockClaim("app", classExt4, small))
	app.exec("/bin/busybox", "test", "-b", dataDevice)
	if have := app.space(dataDevice); have != 128*volume.MiB {
		t.Errorf("the device has %s, the claim %s", have, small)
	}
	app.write(dataDevice, 1)
	app.delete()
	again := s.run(idleOnDevice("again", "app"))
	again.verify(dataDevice, 1)
}

func TestDataIsThereForTheNextPod(t *testing.T) {
	t.Parallel()
	for _, class := range []string{classExt4, classXFS} {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			app := s.runClaim(newClaim("app", class, smallOf(class)))
			app.write("/data/file", 7)
			app.delete()
			s.run(idle("again", "app")).verify("/data/file", 7)
		})
	}
}
