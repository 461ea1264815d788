package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// pod is one user of a volume in the demo.
type pod struct {
	name   string
	id     string // of the volume
	claim  orchestrator.Claim
	target string
}

// launch makes a volume and starts a pod on it.
func (d *demo) launch(ctx context.Context, name string, claim orchestrator.Claim, readOnly bool) (*pod, error) {
	v, err := d.box.client.Create(ctx, claim)
	if err != nil {
		return nil, err
	}
	p := &pod{name: name, id: v.GetVolumeId(), claim: claim}
	p.target, err = d.box.client.Start(ctx, p.id, name, claim, readOnly)
	return p, err
}

// retire ends a pod and deletes its volume.
func (d *demo) retire(ctx context.Context, p *pod) error {
	if err := d.box.client.Stop(ctx, p.id, p.name, p.claim); err != nil {
		return err
	}
	return d.box.client.Delete(ctx, p.id)
}

const (
	mainSeed  = 1
	cloneSeed = 2
)

// filesystem is the life of an XFS volume that is written to all the time.
func (d *demo) filesystem(ctx context.Context) error {
	d.chapter("A filesystem volume, written to all the while")
	s := &fsStory{demo: d, claim: orchestrator.Claim{Name: "pvc-orders", Size: volume.GiB, FSType: volume.XFS}}
	defer s.stopJournal()
	return s.tell(ctx, []scene{
		{"create a volume of 1 GiB with xfs and publish it to a pod", s.create},
		{fmt.Sprintf("write %s of known bytes, and start a writer that syncs every 4 KiB", d.data), s.write},
		{"snapshot it under the running writer", s.snapshot},
		{"restore the snapshot and publish it to another pod", s.restore},
		{"clone the live volume", s.clone},
		{"grow it to 2 GiB while it is written to", s.grow},
		{"restore the snapshot into a volume of 3 GiB", s.restoreLarger},
		{"publish it read-only to one more pod", s.readOnly},
		{"stop the writer and read everything back", s.readBack},
		{"delete the volume; its snapshot still restores", s.outlive},
		{"unpublish and delete the rest", s.clean},
	})
}

// scene is one narrated step.
type scene struct {
	what string
	do   func(context.Context) (string, error)
}

func (d *demo) tell(ctx context.Context, scenes []scene) error {
	for _, sc := range scenes {
		if err := d.step(sc.what, func() (string, error) { return sc.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

type fsStory struct {
	*demo
	claim    orchestrator.Claim
	main     *pod
	others   []*pod
	journal  *workload.Journal
	snap     string
	snapSeen uint64 // records that were durable before the snapshot was asked for
}

func (s *fsStory) create(ctx context.Context) (string, error) {
	var err error
	s.main, err = s.launch(ctx, "orders-0", s.claim, false)
	if err != nil {
		return "", err
	}
	size, err := filesystemSize(s.main.target)
	return "the pod sees " + size.String(), err
}

func (s *fsStory) file(p *pod) string      { return filepath.Join(p.target, "data") }
func (s *fsStory) journalOf(p *pod) string { return filepath.Join(p.target, "journal") }
func (s *fsStory) verify(p *pod) error     { return workload.Verify(s.file(p), mainSeed, s.data) }

func (s *fsStory) write(context.Context) (string, error) {
	start := time.Now()
	if err := workload.Write(s.file(s.main), mainSeed, s.data, true); err != nil {
		return "", err
	}
	rate := float64(s.data/volume.MiB) / time.Since(start).Seconds()
	j, err := workload.StartJournal(s.journalOf(s.main))
	if err != nil {
		return "", err
	}
	s.journal = j
	return fmt.Sprintf("%.0f MiB/s", rate), j.WaitAcked(100, 30*time.Second)
}

func (s *fsStory) snapshot(ctx context.Context) (string, error) {
	var err error
	if s.snapSeen, err = s.journal.Acked(); err != nil {
		return "", err
	}
	s.journal.Stall()
	snap, err := s.box.client.Snapshot(ctx, "snap-orders", s.main.id)
	if err != nil {
		return "", err
	}
	s.snap = snap.GetSnapshotId()
	if !snap.GetReadyToUse() {
		return "", errors.New("the snapshot is not ready to use")
	}
	after, err := s.journal.Acked()
	if err != nil {
		return "", err
	}
	err = s.journal.WaitAcked(after+20, 30*time.Second)
	return fmt.Sprintf("the writer waited %s at most", formatTook(s.journal.Stall())), err
}

// checkCopy compares a copy of the volume with what was written: all of the
// data, and a journal that holds at least what was durable before.
func (s *fsStory) checkCopy(p *pod, atLeast uint64) (string, error) {
	if err := s.verify(p); err != nil {
		return "", err
	}
	n, err := workload.VerifyJournal(s.journalOf(p))
	if err != nil {
		return "", err
	}
	if n < atLeast {
		return "", fmt.Errorf("%w: the copy has %d records, %d were durable before it was taken", workload.ErrContent, n, atLeast)
	}
	return fmt.Sprintf("%s and %d records verified, %d were durable before", s.data, n, atLeast), nil
}

func (s *fsStory) restore(ctx context.Context) (string, error) {
	p, err := s.launch(ctx, "restored-0", orchestrator.Claim{Name: "pvc-restored", Size: volume.GiB, FSType: volume.XFS, Snapshot: s.snap}, false)
	if err != nil {
		return "", err
	}
	s.others = append(s.others, p)
	return s.checkCopy(p, s.snapSeen)
}

func (s *fsStory) clone(ctx context.Context) (string, error) {
	before, err := s.journal.Acked()
	if err != nil {
		return "", err
	}
	p, err := s.launch(ctx, "clone-0", orchestrator.Claim{Name: "pvc-clone", Size: volume.GiB, FSType: volume.XFS, Volume: s.main.id}, false)
	if err != nil {
		return "", err
	}
	s.others = append(s.others, p)
	remark, err := s.checkCopy(p, before)
	if err != nil {
		return "", err
	}
	// Overwriting the clone must not reach its source.
	if err := workload.Write(s.file(p), cloneSeed, s.data, true); err != nil {
		return "", err
	}
	return remark + ", then overwritten; the source is untouched", s.verify(s.main)
}

func (s *fsStory) grow(ctx context.Context) (string, error) {
	before, err := s.journal.Acked()
	if err != nil {
		return "", err
	}
	s.journal.Stall()
	if err := s.box.client.Expand(ctx, s.main.id, s.main.name, s.claim, 2*volume.GiB); err != nil {
		return "", err
	}
	size, err := filesystemSize(s.main.target)
	if err != nil {
		return "", err
	}
	if size < 2*volume.GiB*95/100 {
		return "", fmt.Errorf("the pod sees only %s", size)
	}
	if err := s.journal.WaitAcked(before+20, 30*time.Second); err != nil {
		return "", err
	}
	return fmt.Sprintf("the pod sees %s, the writer waited %s at most", size, formatTook(s.journal.Stall())), nil
}

func (s *fsStory) restoreLarger(ctx context.Context) (string, error) {
	p, err := s.launch(ctx, "larger-0", orchestrator.Claim{Name: "pvc-larger", Size: 3 * volume.GiB, FSType: volume.XFS, Snapshot: s.snap}, false)
	if err != nil {
		return "", err
	}
	s.others = append(s.others, p)
	size, err := filesystemSize(p.target)
	if err != nil {
		return "", err
	}
	if size < 3*volume.GiB*95/100 {
		return "", fmt.Errorf("the pod sees only %s", size)
	}
	remark, err := s.checkCopy(p, s.snapSeen)
	return fmt.Sprintf("the pod sees %s, %s", size, remark), err
}

func (s *fsStory) readOnly(ctx context.Context) (string, error) {
	target, err := s.box.client.Publish(ctx, s.main.id, "report-0", s.claim, true)
	if err != nil {
		return "", err
	}
	if err := workload.Verify(filepath.Join(target, "data"), mainSeed, s.data); err != nil {
		return "", err
	}
	err = os.WriteFile(filepath.Join(target, "forbidden"), nil, 0o600)
	if !errors.Is(err, unix.EROFS) {
		return "", fmt.Errorf("writing to a read-only volume gave: %v", err)
	}
	return "it reads; writing is refused: " + unix.EROFS.Error(), s.box.client.Unpublish(ctx, s.main.id, "report-0", s.claim)
}

func (s *fsStory) readBack(context.Context) (string, error) {
	acked, err := s.journal.Stop()
	s.journal = nil
	if err != nil {
		return "", err
	}
	return s.checkCopy(s.main, acked)
}

func (s *fsStory) outlive(ctx context.Context) (string, error) {
	if err := s.retire(ctx, s.main); err != nil {
		return "", err
	}
	p, err := s.launch(ctx, "phoenix-0", orchestrator.Claim{Name: "pvc-phoenix", Size: volume.GiB, FSType: volume.XFS, Snapshot: s.snap}, false)
	if err != nil {
		return "", err
	}
	s.others = append(s.others, p)
	return s.checkCopy(p, s.snapSeen)
}

func (s *fsStory) clean(ctx context.Context) (string, error) {
	for _, p := range s.others {
		if err := s.retire(ctx, p); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d volumes and a snapshot", len(s.others)), s.box.client.DeleteSnapshot(ctx, s.snap)
}

func (s *fsStory) stopJournal() {
	if s.journal != nil {
		_, _ = s.journal.Stop() // the demo has failed already, elsewhere
	}
}

func filesystemSize(path string) (volume.Bytes, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return volume.Bytes(st.Blocks) * volume.Bytes(st.Bsize), nil
}
