package main

import (
	"context"
	"errors"
	"fmt"
	"os"

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
		{"grow it to 1 GiB while the device is open", s.grow},
		{"publish it read-only as well", s.readOnly},
		{"list what there is, two at a time", s.list},
		{"unpublish and delete all of it", s.clean},
	})
}

type blockStory struct {
	*demo
	claim    orchestrator.Claim
	main     *pod
	restored *pod
	snap     string
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
	s.snap = snap.GetSnapshotId()
	if err := workload.Write(s.main.target, newSeed, s.half(), true); err != nil {
		return "", err
	}
	s.restored, err = s.launch(ctx, "vm-restored-0", orchestrator.Claim{Name: "pvc-disk-restored", Size: 512 * volume.MiB, Block: true, Snapshot: s.snap}, false)
	if err != nil {
		return "", err
	}
	if err := workload.Verify(s.restored.target, diskSeed, s.half()); err != nil {
		return "", err
	}
	return "the copy has the old bytes, the source the new", workload.Verify(s.main.target, newSeed, s.half())
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
	if volumes != 2 || len(snaps.GetEntries()) != 1 {
		return "", fmt.Errorf("found %d volumes and %d snapshots, there are 2 and 1", volumes, len(snaps.GetEntries()))
	}
	return fmt.Sprintf("%d volumes, %d snapshot", volumes, len(snaps.GetEntries())), nil
}

func (s *blockStory) clean(ctx context.Context) (string, error) {
	for _, p := range []*pod{s.main, s.restored} {
		if err := s.retire(ctx, p); err != nil {
			return "", err
		}
	}
	return "", s.box.client.DeleteSnapshot(ctx, s.snap)
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
