package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
	"github.com/holdfast-csi/holdfast/test/harness"
)

// touch writes a little to a volume.
func touch(target string, block bool) error {
	if !block {
		target = filepath.Join(target, "data")
	}
	return workload.Write(target, 1, volume.MiB, true)
}

const (
	rounds    = 10
	bigFile   = volume.GiB
	blockSize = 4096
)

// snapshots measures a snapshot, and what a writer notices of it, against the
// number of extents of the image.
func snapshots(t *testing.T, box *harness.Box, d *harness.Driver, r *report) {
	r.line("")
	r.line("## Snapshots against fragmentation")
	r.line("")
	r.line("An xfs volume of 2 GiB with a file of 1 GiB, mounted, while a writer appends 4 KiB records and syncs each. The")
	r.line("image is fragmented by overwriting random 4 KiB blocks of the file after a snapshot. %d snapshots each; the freeze is", rounds)
	r.line("included. Plain copy is what `cp --sparse=always` of the same image takes at that moment, for scale.")
	r.table("extents of the image", "CreateSnapshot p50", "p95", "longest stall of the writer", "restore p50", "plain copy")
	for _, overwrites := range []int{0, 10_000, 100_000} {
		measureSnapshots(t, box, d, r, overwrites)
	}
}

func measureSnapshots(t *testing.T, box *harness.Box, d *harness.Driver, r *report, overwrites int) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	claim := orchestrator.Claim{Name: fmt.Sprintf("fragmented-%d", overwrites), Size: 2 * volume.GiB, FSType: volume.XFS}
	v, err := d.Create(ctx, claim)
	must(err)
	id := v.GetVolumeId()
	target, err := d.Start(ctx, id, "writer", claim, false)
	must(err)
	file := filepath.Join(target, "data")
	must(workload.Write(file, 1, bigFile, true))
	base, err := d.Snapshot(ctx, claim.Name+"-base", id)
	must(err)
	must(scatter(file, overwrites))
	image := filepath.Join(box.Pools(), "pool", "volumes", id, "data", "disk.img")
	count, err := extents(image)
	must(err)
	j, err := workload.StartJournal(filepath.Join(target, "journal"))
	must(err)
	must(j.WaitAcked(100, time.Minute))
	var took, restores samples
	var stall time.Duration
	for i := range rounds {
		j.Stall()
		start := time.Now()
		snap, err := d.Snapshot(ctx, fmt.Sprintf("%s-%d", claim.Name, i), id)
		took = append(took, time.Since(start))
		must(err)
		n, err := j.Acked()
		must(err)
		must(j.WaitAcked(n+20, time.Minute))
		stall = max(stall, j.Stall())
		copyClaim := orchestrator.Claim{Name: fmt.Sprintf("%s-copy-%d", claim.Name, i), Size: claim.Size, FSType: claim.FSType, Snapshot: snap.GetSnapshotId()}
		start = time.Now()
		c, err := d.Create(ctx, copyClaim)
		restores = append(restores, time.Since(start))
		must(err)
		must(d.Delete(ctx, c.GetVolumeId()))
		must(d.DeleteSnapshot(ctx, snap.GetSnapshotId()))
	}
	_, err = j.Stop()
	must(err)
	plain, err := copyFile(image, filepath.Join(box.Dir, "plain-copy"))
	must(err)
	r.aim(fmt.Sprintf("CreateSnapshot, written to, %d extents", count), 100*time.Millisecond, took)
	r.aim(fmt.Sprintf("longest stall of the writer, %d extents", count), 150*time.Millisecond, samples{stall})
	r.row(fmt.Sprint(count), ms(took.percentile(50)), ms(took.percentile(95)), ms(stall), ms(restores.percentile(50)), ms(plain))
	must(d.Client.Stop(ctx, id, "writer", claim))
	must(d.DeleteSnapshot(ctx, base.GetSnapshotId()))
	must(d.Delete(ctx, id))
}

// scatter overwrites n random blocks of a file.
func scatter(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := alignedBlock()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, block := range rng.Perm(int(bigFile / blockSize))[:n] {
		if _, err := f.WriteAt(buf, int64(block)*blockSize); err != nil {
			return err
		}
	}
	return f.Sync()
}

// alignedBlock is a buffer that direct I/O accepts.
func alignedBlock() []byte {
	raw := make([]byte, 2*blockSize)
	shift := blockSize - int(uintptr(unsafe.Pointer(&raw[0]))%blockSize)
	return raw[shift : shift+blockSize]
}

// extents counts the extents of a file (FS_IOC_FIEMAP with no room for any).
func extents(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	arg := struct { // struct fiemap, include/uapi/linux/fiemap.h
		start, length          uint64
		flags, mapped, n, _pad uint32
	}{length: ^uint64(0), flags: 1 /* FIEMAP_FLAG_SYNC */}
	const iocFiemap = 0xc020660b
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), iocFiemap, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return 0, errno
	}
	return arg.mapped, nil
}
