package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// operation is a call that changes something. call is made, killed half way, and
// made again; setUp before, check and tearDown after it run on a healthy driver.
type operation struct {
	name                         string
	setUp, call, check, tearDown func(context.Context, *subject) error
}

// subject is what one run of an operation works on.
type subject struct {
	*world
	name  string
	claim orchestrator.Claim
	id    string // of the volume
	snap  string
	copy  orchestrator.Claim
	other string // id of the copy
}

const (
	pod      = "pod-0"
	otherPod = "pod-1"
	seed     = 11
)

func xfsClaim(name string) orchestrator.Claim {
	return orchestrator.Claim{Name: name, Size: 300 * volume.MiB, FSType: volume.XFS}
}

func ext4Claim(name string) orchestrator.Claim {
	return orchestrator.Claim{Name: name, Size: 64 * volume.MiB, FSType: volume.Ext4}
}

func blockClaim(name string) orchestrator.Claim {
	return orchestrator.Claim{Name: name, Size: 64 * volume.MiB, Block: true}
}

func operations() []operation {
	return []operation{
		createOf("create-ext4", ext4Claim),
		createOf("create-xfs", xfsClaim),
		createOf("create-block", blockClaim),
		snapshotOf("snapshot-mounted", xfsClaim),
		snapshotOf("snapshot-ext4", ext4Claim),
		snapshotOf("snapshot-block", blockClaim),
		restoreOf("restore", xfsClaim),
		cloneOf("clone-mounted", xfsClaim),
		cloneOf("clone-block", blockClaim),
		expandOf("expand-xfs", xfsClaim, 600*volume.MiB),
		expandOf("expand-block", blockClaim, 128*volume.MiB),
		deleteVolume("delete-ext4", ext4Claim),
		deleteVolume("delete-block", blockClaim),
		deleteSnapshot(),
		startOf("start-ext4", ext4Claim, false),
		startOf("start-ext4-larger", ext4Claim, false).growingFirst(128 * volume.MiB),
		startOf("start-block", blockClaim, false),
		startOf("start-block-read-only", blockClaim, true),
		importOf("import-directory", ext4Claim),
		importOf("import-image", blockClaim),
		stopOf("stop-xfs", xfsClaim, false),
		stopOf("stop-block-read-only", blockClaim, true),
	}
}

func nothing(context.Context, *subject) error { return nil }

// create makes the subject's volume.
func (s *subject) create(ctx context.Context, claim orchestrator.Claim) error {
	v, err := s.driver.Create(ctx, claim)
	if err != nil {
		return err
	}
	s.claim, s.id = claim, v.GetVolumeId()
	return nil
}

// fill publishes the subject's volume and writes known bytes to it.
func (s *subject) fill(ctx context.Context) error {
	target, err := s.driver.Start(ctx, s.id, pod, s.claim, false)
	if err != nil {
		return err
	}
	return workload.Write(s.data(target, s.claim), seed, dataSize, true)
}

func (s *subject) data(target string, claim orchestrator.Claim) string {
	if claim.Block {
		return target
	}
	return filepath.Join(target, "data")
}

// verify publishes a volume to a pod, unless it is, and compares its content.
func (s *subject) verify(ctx context.Context, id, pod string, claim orchestrator.Claim) error {
	target, err := s.driver.Start(ctx, id, pod, claim, false)
	if err != nil {
		return err
	}
	return workload.Verify(s.data(target, claim), seed, dataSize)
}

// remove takes a volume away from its pod and deletes it.
func (s *subject) remove(ctx context.Context, id, pod string, claim orchestrator.Claim) error {
	if err := s.driver.Client.Stop(ctx, id, pod, claim); err != nil {
		return err
	}
	return s.driver.Delete(ctx, id)
}

func createOf(name string, claim func(string) orchestrator.Claim) operation {
	return operation{
		name:  name,
		setUp: nothing,
		call:  func(ctx context.Context, s *subject) error { return s.create(ctx, claim(s.name)) },
		check: func(ctx context.Context, s *subject) error {
			if err := s.fill(ctx); err != nil {
				return err
			}
			return s.verify(ctx, s.id, pod, s.claim)
		},
		tearDown: func(ctx context.Context, s *subject) error { return s.remove(ctx, s.id, pod, s.claim) },
	}
}

// withData is a volume that is published and has known bytes.
func withData(claim func(string) orchestrator.Claim) func(context.Context, *subject) error {
	return func(ctx context.Context, s *subject) error {
		if err := s.create(ctx, claim(s.name)); err != nil {
			return err
		}
		return s.fill(ctx)
	}
}

func (s *subject) takeSnapshot(ctx context.Context) error {
	snap, err := s.driver.Snapshot(ctx, s.name+"-snap", s.id)
	s.snap = snap.GetSnapshotId()
	return err
}

// makeCopy makes a copy of the subject's snapshot or volume.
func (s *subject) makeCopy(ctx context.Context, snapshot, from string) error {
	s.copy = s.claim
	s.copy.Name, s.copy.Snapshot, s.copy.Volume = s.name+"-copy", snapshot, from
	v, err := s.driver.Create(ctx, s.copy)
	s.other = v.GetVolumeId()
	return err
}

func (s *subject) removeAll(ctx context.Context) error {
	if s.other != "" {
		if err := s.remove(ctx, s.other, otherPod, s.copy); err != nil {
			return err
		}
	}
	if s.snap != "" {
		if err := s.driver.DeleteSnapshot(ctx, s.snap); err != nil {
			return err
		}
	}
	return s.remove(ctx, s.id, pod, s.claim)
}

func removeAll(ctx context.Context, s *subject) error { return s.removeAll(ctx) }

func snapshotOf(name string, claim func(string) orchestrator.Claim) operation {
	return operation{
		name:  name,
		setUp: withData(claim),
		call:  func(ctx context.Context, s *subject) error { return s.takeSnapshot(ctx) },
		check: func(ctx context.Context, s *subject) error {
			// The source writes again, which it could not if it were still frozen.
			if err := workload.Write(s.data(s.driver.TargetPath(s.id, pod, s.claim.Block), s.claim), seed+1, dataSize, true); err != nil {
				return err
			}
			if err := s.makeCopy(ctx, s.snap, ""); err != nil {
				return err
			}
			return s.verify(ctx, s.other, otherPod, s.copy)
		},
		tearDown: removeAll,
	}
}

func restoreOf(name string, claim func(string) orchestrator.Claim) operation {
	return operation{
		name: name,
		setUp: func(ctx context.Context, s *subject) error {
			if err := withData(claim)(ctx, s); err != nil {
				return err
			}
			return s.takeSnapshot(ctx)
		},
		call:     func(ctx context.Context, s *subject) error { return s.makeCopy(ctx, s.snap, "") },
		check:    func(ctx context.Context, s *subject) error { return s.verify(ctx, s.other, otherPod, s.copy) },
		tearDown: removeAll,
	}
}

func cloneOf(name string, claim func(string) orchestrator.Claim) operation {
	return operation{
		name:     name,
		setUp:    withData(claim),
		call:     func(ctx context.Context, s *subject) error { return s.makeCopy(ctx, "", s.id) },
		check:    func(ctx context.Context, s *subject) error { return s.verify(ctx, s.other, otherPod, s.copy) },
		tearDown: removeAll,
	}
}

func expandOf(name string, claim func(string) orchestrator.Claim, to volume.Bytes) operation {
	return operation{
		name:  name,
		setUp: withData(claim),
		call:  func(ctx context.Context, s *subject) error { return s.driver.Expand(ctx, s.id, pod, s.claim, to) },
		check: func(ctx context.Context, s *subject) error {
			stats, err := s.driver.Node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{
				VolumeId: s.id, VolumePath: s.driver.TargetPath(s.id, pod, s.claim.Block),
			})
			if err != nil {
				return err
			}
			if total := volume.Bytes(stats.GetUsage()[0].GetTotal()); total < to*85/100 {
				return fmt.Errorf("the pod sees %s, not %s", total, to)
			}
			return s.verify(ctx, s.id, pod, s.claim)
		},
		tearDown: removeAll,
	}
}

func deleteVolume(name string, claim func(string) orchestrator.Claim) operation {
	return operation{
		name: name,
		setUp: func(ctx context.Context, s *subject) error {
			if err := withData(claim)(ctx, s); err != nil {
				return err
			}
			return s.driver.Client.Stop(ctx, s.id, pod, s.claim)
		},
		call: func(ctx context.Context, s *subject) error { return s.driver.Delete(ctx, s.id) },
		check: func(ctx context.Context, s *subject) error {
			_, err := s.driver.Controller.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: s.id})
			if status.Code(err) != codes.NotFound {
				return fmt.Errorf("a deleted volume is found: %w", err)
			}
			return nil
		},
		tearDown: nothing,
	}
}

func deleteSnapshot() operation {
	return operation{
		name: "delete-snapshot",
		setUp: func(ctx context.Context, s *subject) error {
			if err := withData(ext4Claim)(ctx, s); err != nil {
				return err
			}
			return s.takeSnapshot(ctx)
		},
		call: func(ctx context.Context, s *subject) error { return s.driver.DeleteSnapshot(ctx, s.snap) },
		check: func(ctx context.Context, s *subject) error {
			list, err := s.driver.Controller.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SnapshotId: s.snap})
			if err != nil || len(list.GetEntries()) > 0 {
				return fmt.Errorf("a deleted snapshot is listed: %d, %w", len(list.GetEntries()), err)
			}
			return s.verify(ctx, s.id, pod, s.claim)
		},
		tearDown: removeAll,
	}
}

// startOf is staging and publishing.
func startOf(name string, claim func(string) orchestrator.Claim, readOnly bool) operation {
	return operation{
		name: name,
		setUp: func(ctx context.Context, s *subject) error {
			if err := withData(claim)(ctx, s); err != nil {
				return err
			}
			return s.driver.Client.Stop(ctx, s.id, pod, s.claim)
		},
		call: func(ctx context.Context, s *subject) error {
			_, err := s.driver.Start(ctx, s.id, pod, s.claim, readOnly)
			return err
		},
		check: func(_ context.Context, s *subject) error {
			target := s.data(s.driver.TargetPath(s.id, pod, s.claim.Block), s.claim)
			if err := workload.Verify(target, seed, dataSize); err != nil {
				return err
			}
			err := workload.Write(target, seed, dataSize, true)
			if readOnly != (err != nil) {
				return fmt.Errorf("published read-only=%v, writing gave: %v", readOnly, err)
			}
			return nil
		},
		tearDown: removeAll,
	}
}

// growingFirst makes the volume larger than its filesystem before the call.
func (op operation) growingFirst(to volume.Bytes) operation {
	before := op.setUp
	op.setUp = func(ctx context.Context, s *subject) error {
		if err := before(ctx, s); err != nil {
			return err
		}
		return s.driver.Expand(ctx, s.id, "", s.claim, to)
	}
	return op
}

// stopOf is unpublishing and unstaging.
func stopOf(name string, claim func(string) orchestrator.Claim, readOnly bool) operation {
	return operation{
		name: name,
		setUp: func(ctx context.Context, s *subject) error {
			if err := withData(claim)(ctx, s); err != nil || !readOnly {
				return err
			}
			if err := s.driver.Unpublish(ctx, s.id, pod, s.claim); err != nil {
				return err
			}
			_, err := s.driver.Publish(ctx, s.id, pod, s.claim, true)
			return err
		},
		call: func(ctx context.Context, s *subject) error { return s.driver.Client.Stop(ctx, s.id, pod, s.claim) },
		check: func(ctx context.Context, s *subject) error {
			if _, err := os.Lstat(s.driver.TargetPath(s.id, pod, s.claim.Block)); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("the target is still there: %w", err)
			}
			return s.verify(ctx, s.id, pod, s.claim)
		},
		tearDown: removeAll,
	}
}

// loopsOf are the backing files, relative to dir, of the loops below it, and
// those that are stacked on them.
func loopsOf(dir string) ([]string, error) {
	loops, err := loop.List()
	if err != nil {
		return nil, err
	}
	ours := map[string]string{}
	for range 2 { // the second round finds what is stacked on the first
		for _, l := range loops {
			if rel, ok := strings.CutPrefix(l.BackingPath, dir+"/"); ok {
				ours[fmt.Sprintf("/dev/loop%d", l.Index)] = rel
			} else if below, ok := ours[l.BackingPath]; ok {
				ours[fmt.Sprintf("/dev/loop%d", l.Index)] = "stacked on " + below
			}
		}
	}
	var out []string
	for _, rel := range ours {
		out = append(out, rel)
	}
	return out, nil
}
