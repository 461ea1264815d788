package lifecycle

import (
	"io"
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

func TestExpand(t *testing.T) {
	s := newSite(t, 8*volume.GiB)
	s.run("xfs grows twice under a writer", xfsGrowsUnderAWriter)
	s.run("a volume grows while nobody uses it", growsOffline)
	s.run("a block device grows while it is open, for readers too", blockGrowsWhileOpen)
	s.run("a growth repeated changes nothing", growthRepeated)
	s.run("a growth that cannot be is out of range and harms nothing", growthRefused)
	s.run("an xfs grown beyond eight times its birth size is warned about", xfsGrownTooFar)
}

func TestExpandOfMountedExt4(t *testing.T) {
	s := newSite(t, 2*volume.GiB)
	s.run("it grows under a writer", ext4GrowsUnderAWriter)
	if filesystem.CanGrowOnline(volume.Ext4) {
		// The rest is for a driver without the capability.
		s.box.Wrap = []string{"setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"}
		s.restart("")
	}
	s.run("without CAP_SYS_RESOURCE it is refused and grows at the next stage", ext4GrowsAtStage)
}

func xfsGrowsUnderAWriter(s *site) {
	p := s.launch(xfs("online"))
	writer := p.journal()
	for _, size := range []volume.Bytes{600 * volume.MiB, 900 * volume.MiB} {
		writer.Stall()
		s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, size))
		s.mustGoOn(writer)
		s.t.Logf("grown to %s: longest stall of the writer: %s", size, writer.Stall())
		p.mustSee(size)
	}
	// What was added can be used.
	s.must(workload.Write(p.path("large"), 1, 400*volume.MiB, true))
}

func ext4GrowsUnderAWriter(s *site) {
	if !filesystem.CanGrowOnline(volume.Ext4) {
		s.t.Skip("this process lacks CAP_SYS_RESOURCE, which the kernel demands for the online growth of ext4 (fs/ext4/resize.c)")
	}
	p := s.launch(ext4("ext4-online"))
	writer := p.journal()
	s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, 300*volume.MiB))
	s.mustGoOn(writer)
	p.mustSee(300 * volume.MiB)
}

func ext4GrowsAtStage(s *site) {
	p := s.launch(ext4("ext4-stage"))
	p.write("data", 1)
	err := s.driver.Expand(s.ctx, p.id, p.name, p.claim, 300*volume.MiB)
	s.mustRefuse(err, codes.FailedPrecondition, "CAP_SYS_RESOURCE", "restart the pod")
	p.mustSee(p.claim.Size)
	p.verify("data", 1)
	p.write("more", 2)
	p.stop()
	p.start()
	p.mustSee(300 * volume.MiB)
	p.verify("data", 1)
	p.verify("more", 2)
	// Now there is nothing left to do.
	s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, 300*volume.MiB))
}

func growsOffline(s *site) {
	for _, claim := range []orchestrator.Claim{ext4("offline-ext4"), xfs("offline-xfs"), block("offline-block")} {
		p := s.launch(claim)
		p.write("data", 1)
		p.stop()
		size := claim.Size + 200*volume.MiB
		s.must(s.driver.Expand(s.ctx, p.id, "", claim, size))
		_, err := s.driver.Node.NodeExpandVolume(s.ctx, &csi.NodeExpandVolumeRequest{
			VolumeId: p.id, VolumePath: s.driver.StagingPath(p.id), VolumeCapability: claim.Capability(),
		})
		s.mustRefuse(err, codes.FailedPrecondition, "when it is staged")
		p.start()
		p.mustSee(size)
		p.verify("data", 1)
		p.write("more", 2)
	}
}

func blockGrowsWhileOpen(s *site) {
	const size = 128 * volume.MiB
	p := s.launch(block("open"))
	p.write("", 1)
	readOnly, err := s.driver.Publish(s.ctx, p.id, "reader", p.claim, true)
	s.must(err)
	writer, err := os.OpenFile(p.target, os.O_RDWR, 0)
	s.must(err)
	defer writer.Close()
	reader, err := os.Open(readOnly)
	s.must(err)
	defer reader.Close()

	s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, size))

	for name, f := range map[string]*os.File{"writer": writer, "reader": reader} {
		end, err := f.Seek(0, io.SeekEnd)
		s.must(err)
		if volume.Bytes(end) != size {
			s.t.Errorf("the %s sees %s, not %s", name, volume.Bytes(end), size)
		}
	}
	tail := make([]byte, 4096)
	copy(tail, "the new end")
	_, err = writer.WriteAt(tail, int64(size)-4096)
	s.must(err)
	s.must(writer.Sync())
	got := make([]byte, 4096)
	_, err = reader.ReadAt(got, int64(size)-4096)
	s.must(err)
	if string(got) != string(tail) {
		s.t.Error("the reader does not see what was written to the new end")
	}
	p.verify("", 1)
	s.must(reader.Close())
	s.must(s.driver.Unpublish(s.ctx, p.id, "reader", p.claim))
}

func growthRepeated(s *site) {
	const size = 600 * volume.MiB
	p := s.launch(xfs("repeated"))
	for range 3 {
		s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, size))
	}
	s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, 500*volume.MiB)) // less than it has is success
	if got := p.size(); got != size {
		s.t.Errorf("the volume has %s, not %s", got, size)
	}
	p.mustSee(size)
}

func growthRefused(s *site) {
	p := s.launch(xfs("refused"))
	p.write("data", 1)
	before, room := p.size(), s.capacity()
	expand := func(r *csi.CapacityRange) error {
		_, err := s.driver.Controller.ControllerExpandVolume(s.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: p.id, CapacityRange: r})
		return err
	}
	s.mustRefuse(expand(&csi.CapacityRange{LimitBytes: int64(before) / 2}), codes.OutOfRange)
	s.mustRefuse(expand(&csi.CapacityRange{RequiredBytes: int64(before) + 1, LimitBytes: int64(before) + 2}), codes.OutOfRange)
	s.mustRefuse(expand(&csi.CapacityRange{RequiredBytes: 2 << 30, LimitBytes: 1 << 30}), codes.InvalidArgument)
	s.mustRefuse(expand(&csi.CapacityRange{RequiredBytes: int64(before + room + volume.GiB)}), codes.OutOfRange, "no space in pool")
	s.mustRefuse(expand(&csi.CapacityRange{RequiredBytes: 1 << 60}), codes.OutOfRange)
	if got := p.size(); got != before {
		s.t.Errorf("a refused growth made the volume %s, it was %s", got, before)
	}
	if got := s.capacity(); got < room-volume.MiB {
		s.t.Errorf("a refused growth took from the pool: %s were free, now %s", room, got)
	}
	p.verify("data", 1)
	p.write("more", 2)
	s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, 400*volume.MiB))
	p.mustSee(400 * volume.MiB)
}

func xfsGrownTooFar(s *site) {
	p := s.launch(xfs("far"))
	s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, 8*p.claim.Size))
	s.must(s.driver.Expand(s.ctx, p.id, p.name, p.claim, 8*p.claim.Size+volume.MiB))
	s.mustWarn("xfs has grown far beyond the size it was made with")
	p.mustSee(8*p.claim.Size + volume.MiB)
}
