package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// ext4 is the growth of an ext4 volume: online where the kernel lets us, else
// when the pod starts again.
func (d *demo) ext4(ctx context.Context) error {
	d.chapter("An ext4 volume")
	s := &fsStory{demo: d, claim: orchestrator.Claim{Name: "pvc-ext4", Size: volume.GiB, FSType: volume.Ext4}}
	growth := scene{"grow it to 2 GiB online", s.growExt4}
	if !filesystem.CanGrowOnline(volume.Ext4) {
		growth = scene{"grow it to 2 GiB (online is skipped: the kernel wants CAP_SYS_RESOURCE for ext4, and this machine withholds it)", s.growExt4}
	}
	return s.tell(ctx, []scene{
		{"create a volume of 1 GiB with ext4 and publish it to a pod", s.create},
		{fmt.Sprintf("write %s of known bytes", d.data), func(context.Context) (string, error) {
			return "", workload.Write(s.file(s.main), mainSeed, s.data, true)
		}},
		growth,
		{"unpublish and delete it", func(ctx context.Context) (string, error) { return "", s.retire(ctx, s.main) }},
	})
}

func (s *fsStory) growExt4(ctx context.Context) (string, error) {
	how := "online"
	err := s.box.client.Expand(ctx, s.main.id, s.main.name, s.claim, 2*volume.GiB)
	if status.Code(err) == codes.FailedPrecondition && !filesystem.CanGrowOnline(volume.Ext4) {
		how = "when the pod started again"
		if err = s.box.client.Stop(ctx, s.main.id, s.main.name, s.claim); err == nil {
			_, err = s.box.client.Start(ctx, s.main.id, s.main.name, s.claim, false)
		}
	}
	if err != nil {
		return "", err
	}
	size, err := filesystemSize(s.main.target)
	if err != nil {
		return "", err
	}
	if size < 2*volume.GiB*90/100 {
		return "", fmt.Errorf("the pod sees only %s", size)
	}
	return fmt.Sprintf("the pod sees %s, grown %s", size, how), s.verify(s.main)
}
