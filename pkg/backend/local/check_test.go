package local

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// checked is what check says of the pool "default".
func (b *bench) checked() PoolCheck {
	b.t.Helper()
	out, err := Check(b.t.Context(), Checking{StateDir: b.cfg.StateDir, Pool: "default", Runner: command.New(), Filesystems: true, Snapshots: true})
	if err != nil || len(out) != 1 {
		b.t.Fatalf("%+v, %v", out, err)
	}
	for _, f := range out[0].Findings {
		if f.What == "" || f.Do == "" {
			b.t.Errorf("a finding without a word on what to do: %+v", f)
		}
	}
	return out[0]
}

// mustFind demands exactly one finding, with these words.
func (b *bench) mustFind(what string, severity, object string, words ...string) {
	b.t.Helper()
	c := b.checked()
	found := c.Findings
	if len(found) != 1 || found[0].Severity != severity || found[0].Object != object {
		b.t.Errorf("%s: want one %s about %s, got %+v", what, severity, object, c)
		return
	}
	for _, w := range words {
		if !strings.Contains(found[0].What+found[0].Do, w) {
			b.t.Errorf("%s: it does not speak of %q: %+v", what, w, found[0])
		}
	}
}

func (b *bench) mustBeWell(what string) {
	b.t.Helper()
	if found := b.checked().Findings; len(found) > 0 {
		b.t.Errorf("%s: %+v", what, found)
	}
}

func formatted(name string, t volume.FSType) volume.Spec {
	size := 64 * volume.MiB
	if t == volume.XFS {
		size = 300 * volume.MiB
	}
	return volume.Spec{Name: name, Size: size, Format: volume.Format{Mode: volume.ModeFilesystem, FSType: t}}
}

// inPool is a path in the pool "default".
func (b *bench) inPool(elem ...string) string {
	b.t.Helper()
	return filepath.Join(append([]string{b.poolNamed("default").dir.Name()}, elem...)...)
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) mustCreate(spec volume.Spec) volume.Volume {
	b.t.Helper()
	v, err := b.CreateVolume(b.t.Context(), spec)
	b.must(err)
	return v
}

func TestCheckOfAPoolThatIsWell(t *testing.T) { onEach(t, testCheckOfAPoolThatIsWell) }

func testCheckOfAPoolThatIsWell(t *testing.T, pool string) {
	b := newBenchOn(t, pool, 2*volume.GiB, nil, "default")
	ext4, xfs := b.mustCreate(formatted("ext4", volume.Ext4)), b.mustCreate(formatted("xfs", volume.XFS))
	b.mustCreate(rawBlock("raw"))
	_, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: "s", Source: xfs.ID})
	b.must(err)
	want := PoolCheck{Name: "default", ID: ext4.ID.Pool(), Dir: b.cfg.Pools[0].Dir, Volumes: 3, Snapshots: 1, Filesystems: 3, Findings: []Finding{}}
	if diff := cmp.Diff(want, b.checked()); diff != "" {
		t.Errorf("idle (-want +got):\n%s", diff)
	}
	dev, err := b.Attach(t.Context(), ext4.ID)
	b.must(err)
	defer dev.Close()
	want.Filesystems, want.InUse = 2, 1
	if diff := cmp.Diff(want, b.checked()); diff != "" {
		t.Errorf("one is attached (-want +got):\n%s", diff)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// A pool that no driver uses is well too.
	b.must(b.Close())
	if diff := cmp.Diff(want, b.checked()); diff != "" {
		t.Errorf("without a driver (-want +got):\n%s", diff)
	}
	b.open()
}

func TestCheckFindsWhatIsWrongWithRecordsAndImages(t *testing.T) {
	onEach(t, testCheckFindsWhatIsWrongWithRecordsAndImages)
}

func testCheckFindsWhatIsWrongWithRecordsAndImages(t *testing.T, pool string) {
	b := newBenchOn(t, pool, volume.GiB, nil, "default")
	v := b.mustCreate(rawBlock("a"))
	_, err := b.ExpandVolume(t.Context(), v.ID, 96*volume.MiB, 0) // so that there are two generations
	b.must(err)
	dir := b.inPool(objectDir(v.ID))
	record, img := filepath.Join(dir, "volume.json"), filepath.Join(dir, dataDir, imageFile)
	good, err := os.ReadFile(record)
	b.must(err)
	prev, err := os.ReadFile(record + previousSuffix)
	b.must(err)
	b.mustBeWell("to begin with")
	rot := func(data []byte) []byte { return []byte(strings.Replace(string(data), `"size"`, `"sice"`, 1)) }
	id := string(v.ID)

	b.must(os.WriteFile(record, rot(good), 0o600))
	b.mustFind("a rotten record", severityProblem, id, "checksum", "the one before it")
	b.must(os.WriteFile(record+previousSuffix, rot(prev), 0o600))
	b.mustFind("both rotten", severityProblem, id, "nor the one before", "do not remove")
	b.must(os.WriteFile(record, good, 0o600))
	b.mustFind("a rotten fallback", severityNote, id, "fallback")
	b.must(errors.Join(os.Remove(record), os.Remove(record+previousSuffix)))
	b.mustFind("no record", severityProblem, id, "no record", quarantineDir)
	b.must(errors.Join(os.WriteFile(record, good, 0o600), os.WriteFile(record+previousSuffix, prev, 0o600)))

	b.must(os.Truncate(img, int64(97*volume.MiB)))
	b.mustFind("an image that is longer", severityNote, id, "97 MiB", "did not finish")
	b.must(os.Truncate(img, int64(95*volume.MiB)))
	b.mustFind("an image that is shorter", severityProblem, id, "cut", "restore a snapshot")
	b.must(os.Truncate(img, int64(96*volume.MiB)))
	b.must(os.Rename(img, img+".away"))
	b.mustFind("no image", severityProblem, id, "no image")
	b.must(os.Rename(img+".away", img))
	b.mustBeWell("all put back")

	other := b.mustCreate(rawBlock("b"))
	mine, its := filepath.Join(dir, dataDir), b.inPool(objectDir(other.ID), dataDir)
	for _, step := range [][2]string{{mine, mine + ".away"}, {its, mine}, {mine + ".away", its}} {
		b.must(os.Rename(step[0], step[1]))
	}
	if c := b.checked(); c.Problems() != 2 || !strings.Contains(c.Findings[0].What, "something replaced it") {
		t.Errorf("two images changed places: %+v", c)
	}
}

func TestCheckFindsWhatBelongsToNobody(t *testing.T) { onEach(t, testCheckFindsWhatBelongsToNobody) }

func testCheckFindsWhatBelongsToNobody(t *testing.T, pool string) {
	b := newBenchOn(t, pool, volume.GiB, nil, "default")
	v := b.mustCreate(rawBlock("a"))
	find := func(what, severity, object string, words ...string) {
		t.Helper()
		b.mustFind(what, severity, object, words...)
	}
	b.must(os.Mkdir(b.inPool(volumesDir, "stray"), 0o700))
	find("a stray directory", severityProblem, "volumes/stray")
	b.must(os.Rename(b.inPool(volumesDir, "stray"), b.inPool(quarantineDir, "stray.1")))
	find("quarantine", severityProblem, ".quarantine/stray.1", "by hand")
	b.must(os.Remove(b.inPool(quarantineDir, "stray.1")))

	b.must(os.Mkdir(b.inPool(stagingDir, "x"), 0o700))
	b.mustBeWell("under construction, by a driver that runs")
	b.must(b.Close())
	p := filepath.Join(b.cfg.Pools[0].Dir, MountDir)
	find("under construction, without a driver", severityNote, ".staging/x")
	b.must(os.Rename(filepath.Join(p, stagingDir, "x"), filepath.Join(p, trashDir, "x")))
	find("deleted, without a driver", severityNote, ".trash/x")
	b.must(os.Remove(filepath.Join(p, trashDir, "x")))
	b.open()

	b.must(os.WriteFile(filepath.Join(b.cfg.StateDir, intentFile(v.ID)), nil, 0o600))
	find("a freeze that nobody holds", severityProblem, string(v.ID), "freeze", "watchdog")
	b.must(os.Remove(filepath.Join(b.cfg.StateDir, intentFile(v.ID))))

	stray := b.inPool("stray.img")
	b.must(os.WriteFile(stray, make([]byte, volume.MiB), 0o600))
	f, err := os.OpenFile(stray, os.O_RDWR, 0)
	b.must(err)
	dev, err := loop.Attach(t.Context(), loop.Config{Backing: f, Tag: tagOf(volume.NewID(volume.KindVolume, v.ID.Pool(), "gone")), BlockSize: 4096})
	b.must(err)
	find("a loop device of nobody", severityProblem, dev.Path(), "losetup -d "+dev.Path())
	b.must(errors.Join(dev.Detach(), f.Close(), os.Remove(stray)))

	img, err := os.OpenFile(filepath.Join(b.cfg.Pools[0].Dir, ImageFile), os.O_RDWR, 0)
	b.must(err)
	defer img.Close()
	hole, err := img.Seek(int64(900*volume.MiB), io.SeekStart)
	b.must(err)
	b.must(unix.Fallocate(int(img.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, hole, int64(volume.MiB)))
	find("a pool image with a hole", severityProblem, img.Name(), "no place", "restart the driver")
	b.must(unix.Fallocate(int(img.Fd()), unix.FALLOC_FL_KEEP_SIZE, hole, int64(volume.MiB)))
	b.mustBeWell("all put right")

	restore, err := b.takeAway("default")
	b.must(err)
	if c := b.checked(); c.Problems() != 2 || !slices.ContainsFunc(c.Findings, func(f Finding) bool { return f.Object == "" }) {
		t.Errorf("a pool that is away: %+v", c)
	}
	restore()
}

// fileSum is the content of a file in one word.
func fileSum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func TestCheckFindsDamagedFilesystems(t *testing.T) { onEach(t, testCheckFindsDamagedFilesystems) }

func testCheckFindsDamagedFilesystems(t *testing.T, pool string) {
	b := newBenchOn(t, pool, 2*volume.GiB, nil, "default")
	for fsType, at := range map[volume.FSType]volume.Bytes{
		volume.Ext4: 0,                        // found below
		volume.XFS:  75*volume.MiB + 4*2*2048, // the second allocation group's inode btree, or thereabouts
	} {
		v := b.mustCreate(formatted("damaged-"+string(fsType), fsType))
		img := b.inPool(objectDir(v.ID), dataDir, imageFile)
		f, err := os.OpenFile(img, os.O_RDWR, 0)
		b.must(err)
		garbage := []byte(strings.Repeat("damage", 4096/6))
		if fsType == volume.Ext4 {
			// The block bitmap and all that follows the descriptors of the first group.
			at = 20 * 4096
			garbage = []byte(strings.Repeat("damage", 64*4096/6))
		}
		_, err = f.WriteAt(garbage, int64(at))
		b.must(err)
		b.must(errors.Join(f.Sync(), f.Close())) // btrfs frees nothing that is open
		before := fileSum(t, img)
		b.mustFind(string(fsType), severityProblem, string(v.ID), "is damaged", "restore a snapshot")
		if fileSum(t, img) != before {
			t.Errorf("%s: the image was changed", fsType)
		}
		b.must(b.DeleteVolume(t.Context(), v.ID))
		b.must(b.poolNamed("default").emptyTrash(t.Context()))
	}
}

// A crash-consistent copy has a log to be replayed, which is done in a copy.
func TestCheckReplaysLogsInACopy(t *testing.T) { onEach(t, testCheckReplaysLogsInACopy) }

func testCheckReplaysLogsInACopy(t *testing.T, pool string) {
	b := newBenchOn(t, pool, 4*volume.GiB, nil, "default")
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		id, mnt := b.mountedAt("live-"+string(fsType), fsType)
		b.must(os.MkdirAll(filepath.Join(mnt, "a/b/c"), 0o700))
		b.must(os.WriteFile(filepath.Join(mnt, "a/b/c/file"), make([]byte, 3*volume.MiB), 0o600))
		f, err := os.Open(filepath.Join(mnt, "a/b/c/file"))
		b.must(err)
		b.must(f.Sync())
		f.Close()
		s, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: "s-" + string(fsType), Source: id, Consistency: volume.ConsistencyCrash})
		b.must(err)
		v := b.mustCreate(volume.Spec{Name: "copy-" + string(fsType), Format: volume.Format{Mode: volume.ModeFilesystem}, Source: volume.Source{Snapshot: s.ID}})
		img := b.inPool(objectDir(v.ID), dataDir, imageFile)
		if _, err := filesystem.Verify(t.Context(), command.New(), img, fsType); !errors.Is(err, volume.ErrPrecondition) {
			t.Fatalf("%s: the copy has nothing to replay: %v", fsType, err)
		}
		before, extents := fileSum(t, img), b.layout(v.ID)
		b.mustBeWell(string(fsType))
		if fileSum(t, img) != before {
			t.Errorf("%s: the image was changed", fsType)
		}
		if diff := cmp.Diff(extents, b.layout(v.ID)); diff != "" {
			t.Errorf("%s: it lies elsewhere now:\n%s", fsType, diff)
		}
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// Without room for a copy nothing is replayed, and that is said.
	p := b.poolNamed("default")
	b.must(p.measureAll(t.Context()))
	room, err := p.room()
	b.must(err)
	b.mustCreate(volume.Spec{Name: "rest", Size: room - 32*volume.MiB, Format: volume.Format{Mode: volume.ModeBlock}})
	c := b.checked()
	if c.Problems() > 0 || len(c.Findings) != 4 { // two snapshots, two copies
		t.Errorf("%+v", c)
	}
	for _, f := range c.Findings {
		if !strings.Contains(f.What, "replayed") {
			t.Errorf("%+v", f)
		}
	}
}

// layout is where the image of an object lies on the device.
func (b *bench) layout(id volume.ID) (out []string) {
	b.t.Helper()
	p := b.poolNamed("default")
	dir, err := p.openObject(objectDir(id))
	b.must(err)
	defer dir.Close()
	b.must(p.store.(mapper).mapped(dir, func(part physical) error {
		out = append(out, fmt.Sprintf("%+v", part))
		return nil
	}))
	return out
}

// What a check did to a volume that nobody copied does not last: it goes on to be
// overwritten in place.
func TestAfterACheckAVolumeIsOverwrittenInPlace(t *testing.T) {
	onEach(t, testAfterACheckAVolumeIsOverwrittenInPlace)
}

func testAfterACheckAVolumeIsOverwrittenInPlace(t *testing.T, pool string) {
	b := newBenchOn(t, pool, 2*volume.GiB, nil, "default")
	v := b.mustCreate(formatted("a", volume.Ext4))
	b.fill(v.ID, 1, 32*volume.MiB, 40*volume.MiB) // where the filesystem has nothing
	before := b.layout(v.ID)
	if c := b.checked(); c.Filesystems != 1 || len(c.Findings) > 0 {
		t.Errorf("%+v", c)
	}
	b.fill(v.ID, 2, 32*volume.MiB, 40*volume.MiB)
	if diff := cmp.Diff(before, b.layout(v.ID)); diff != "" {
		t.Errorf("it was not overwritten in place (-before +after):\n%s", diff)
	}
}
