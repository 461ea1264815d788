package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// block is the life of a raw block volume.
func (d *demo) block(ctx context.Context) error {
	d.chapter("A raw block volume")
	s := &blockStory{demo: d, claim: orchestrator.Claim{Name: "pvc-disk", Size: 512 * volume.MiB, Block: true}}
	return s.tell(ctx, []scene{
		{"create a block volume of 512 MiB and publish its device", s.create},
		{fmt.Sprintf("write %s to the device, close it, sync nothing", s.half()), s.write},
		{"snapshot it, overwrite the source, restore", s.snapshot},
		{"snapshot it again under a running writer, restore into 1 GiB", s.underWriter},
		{"clone it while its device is open", s.clone},
		{"grow it to 1 GiB while the device is open", s.grow},
		{"publish it read-only as well", s.readOnly},
		{"list what there is, two at a time", s.list},
		{"unpublish and delete all of it", s.clean},
	})
}

type blockStory struct {
	*demo
	claim  orchestrator.Claim
	main   *pod
	copies []*pod
	snaps  []string
}

const (
	diskSeed = 3
	newSeed  = 4
)

func (s *blockStory) half() volume.Bytes { return min(s.data, 256*volume.MiB) }

func (s *blockStory) create(ctx context.Context) (string, error) {
	var err error
	s.main, err = s.launch(ctx, "vm-0", s.claim, false)
	if err != nil {
		return "", err
	}
	size, err := deviceSize(s.main.target)
	return "the pod sees a device of " + size.String(), err
}

func (s *blockStory) write(context.Context) (string, error) {
	return "", workload.Write(s.main.target, diskSeed, s.half(), false)
}

func (s *blockStory) snapshot(ctx context.Context) (string, error) {
	snap, err := s.box.client.Snapshot(ctx, "snap-disk", s.main.id)
	if err != nil {
		return "", err
	}
	s.snaps = append(s.snaps, snap.GetSnapshotId())
	if err := workload.Write(s.main.target, newSeed, s.half(), true); err != nil {
		return "", err
	}
	p, err := s.copy(ctx, orchestrator.Claim{Name: "vm-restored", Size: 512 * volume.MiB, Snapshot: snap.GetSnapshotId()})
	if err != nil {
		return "", err
	}
	if err := workload.Verify(p.target, diskSeed, s.half()); err != nil {
		return "", err
	}
	return "the copy has the old bytes, the source the new", workload.Verify(s.main.target, newSeed, s.half())
}

// copy makes a copy of the volume and starts a pod on it.
func (s *blockStory) copy(ctx context.Context, claim orchestrator.Claim) (*pod, error) {
	claim.Block = true
	p, err := s.launch(ctx, claim.Name+"-0", claim, false)
	if err == nil {
		s.copies = append(s.copies, p)
	}
	return p, err
}

// underWriter takes a snapshot while records are being appended to the second
// half of the device.
func (s *blockStory) underWriter(ctx context.Context) (string, error) {
	j, err := workload.StartJournalAt(s.main.target, int64(s.half()))
	if err != nil {
		return "", err
	}
	before, snap, err := uint64(0), "", j.WaitAcked(50, 30*time.Second)
	if err == nil {
		before, err = j.Acked()
	}
	j.Stall()
	if err == nil {
		var made *csi.Snapshot
		made, err = s.box.client.Snapshot(ctx, "snap-disk-writer", s.main.id)
		snap = made.GetSnapshotId()
	}
	stall := j.Stall()
	if _, serr := j.Stop(); err == nil {
		err = serr
	}
	if err != nil {
		return "", err
	}
	s.snaps = append(s.snaps, snap)
	p, err := s.copy(ctx, orchestrator.Claim{Name: "vm-larger", Size: volume.GiB, Snapshot: snap})
	if err != nil {
		return "", err
	}
	if size, err := deviceSize(p.target); err != nil || size != volume.GiB {
		return "", fmt.Errorf("the pod sees a device of %s: %w", size, err)
	}
	n, err := workload.VerifyJournalAt(p.target, int64(s.half()))
	if err == nil && n < before {
		err = fmt.Errorf("%w: the copy has %d records, %d were durable before it was taken", workload.ErrContent, n, before)
	}
	return fmt.Sprintf("%d records, %d were durable before; the writer waited %s at most", n, before, formatTook(stall)), err
}

func (s *blockStory) clone(ctx context.Context) (string, error) {
	p, err := s.copy(ctx, orchestrator.Claim{Name: "vm-clone", Size: 512 * volume.MiB, Volume: s.main.id})
	if err != nil {
		return "", err
	}
	if err := workload.Verify(p.target, newSeed, s.half()); err != nil {
		return "", err
	}
	if err := workload.Write(p.target, cloneSeed, s.half(), true); err != nil {
		return "", err
	}
	return "verified, then overwritten; the source is untouched", workload.Verify(s.main.target, newSeed, s.half())
}

func (s *blockStory) grow(ctx context.Context) (string, error) {
	f, err := os.OpenFile(s.main.target, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("open the device: %w", err)
	}
	defer f.Close()
	if err := s.box.client.Expand(ctx, s.main.id, s.main.name, s.claim, volume.GiB); err != nil {
		return "", err
	}
	size, err := deviceSize(s.main.target)
	if err != nil {
		return "", err
	}
	if size != volume.GiB {
		return "", fmt.Errorf("the pod sees a device of %s", size)
	}
	if _, err := f.WriteAt([]byte("the end"), int64(volume.GiB)-4096); err != nil {
		return "", fmt.Errorf("write to the new end: %w", err)
	}
	return "the pod sees a device of " + size.String(), f.Sync()
}

func (s *blockStory) readOnly(ctx context.Context) (string, error) {
	target, err := s.box.client.Publish(ctx, s.main.id, "auditor-0", s.claim, true)
	if err != nil {
		return "", err
	}
	if err := workload.Verify(target, newSeed, s.half()); err != nil {
		return "", err
	}
	err = workload.Write(target, diskSeed, volume.MiB, true)
	if err == nil {
		return "", errors.New("writing to a read-only device succeeded")
	}
	return "it reads; writing is refused", s.box.client.Unpublish(ctx, s.main.id, "auditor-0", s.claim)
}

func (s *blockStory) list(ctx context.Context) (string, error) {
	volumes := 0
	for token := ""; ; {
		page, err := s.box.client.Controller.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
		if err != nil {
			return "", err
		}
		volumes += len(page.GetEntries())
		if token = page.GetNextToken(); token == "" {
			break
		}
	}
	snaps, err := s.box.client.Controller.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SourceVolumeId: s.main.id})
	if err != nil {
		return "", err
	}
	if volumes != 1+len(s.copies) || len(snaps.GetEntries()) != len(s.snaps) {
		return "", fmt.Errorf("found %d volumes and %d snapshots, there are %d and %d", volumes, len(snaps.GetEntries()), 1+len(s.copies), len(s.snaps))
	}
	return fmt.Sprintf("%d volumes, %d snapshots", volumes, len(snaps.GetEntries())), nil
}

func (s *blockStory) clean(ctx context.Context) (string, error) {
	for _, p := range append(s.copies, s.main) {
		if err := s.retire(ctx, p); err != nil {
			return "", err
		}
	}
	for _, snap := range s.snaps {
		if err := s.box.client.DeleteSnapshot(ctx, snap); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d volumes and %d snapshots", 1+len(s.copies), len(s.snaps)), nil
}

// full shows that a promise which cannot be kept is not given.
func (d *demo) full(ctx context.Context) error {
	d.chapter("Promises")
	return d.step("ask for more than the pool has", func() (string, error) {
		_, err := d.box.client.Create(ctx, orchestrator.Claim{Name: "pvc-too-large", Size: volume.TiB})
		if status.Code(err) != codes.ResourceExhausted {
			return "", fmt.Errorf("the answer was not RESOURCE_EXHAUSTED: %w", err)
		}
		return "refused, nothing was made", nil
	})
}

// nothingLeft asks the driver itself.
func (d *demo) nothingLeft(ctx context.Context) error {
	return d.step("look for anything left over", func() (string, error) {
		volumes, err := d.box.client.Controller.ListVolumes(ctx, &csi.ListVolumesRequest{})
		if err != nil {
			return "", err
		}
		snaps, err := d.box.client.Controller.ListSnapshots(ctx, &csi.ListSnapshotsRequest{})
		if err != nil {
			return "", err
		}
		if n := len(volumes.GetEntries()) + len(snaps.GetEntries()); n > 0 {
			return "", fmt.Errorf("%d objects are left", n)
		}
		return "no volume, no snapshot", nil
	})
}

// deviceSize is the size of a block device in bytes.
func deviceSize(path string) (volume.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	return volume.Bytes(n), err
}
