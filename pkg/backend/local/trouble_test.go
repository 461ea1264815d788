package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/scratch"
)

func TestAPoolIsNotMadeWhileAnotherProcessOpensIt(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	dir := filepath.Join(b.dir, "contended")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(Config{
		Pools: []PoolConfig{{Name: "contended", Dir: dir, Size: volume.GiB}}, StateDir: filepath.Join(b.dir, "other-state"), Runner: command.New(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := other.Pools()[0]; p.Available {
		t.Error("two processes made one pool at once")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it was changed all the same: %v, %v", entries, err)
	}
	unlock()
	other.slots[0].tryOpen(t.Context())
	if p := other.Pools()[0]; !p.Available {
		t.Errorf("it stays away: %s", p.Reason)
	}
}

func TestTwoPoolsOnOneFilesystemAreRefused(t *testing.T) {
	mnt, state := scratch.Btrfs(t, 1, 2*volume.GiB), t.TempDir()
	b, err := New(Config{
		Pools:    []PoolConfig{{Name: "a", Dir: filepath.Join(mnt, "a")}, {Name: "b", Dir: filepath.Join(mnt, "b")}},
		StateDir: state, Runner: command.New(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Init(t.Context()); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "same filesystem") {
		t.Errorf("both would promise its space: %v", err)
	}
}

func TestAStateDirectoryInsideAPoolIsRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := New(Config{Pools: []PoolConfig{{Name: "default", Dir: dir}}, StateDir: filepath.Join(dir, "state"), Runner: command.New()})
	if !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("it would be lost with the pool: %v", err)
	}
}

func TestAPoolWithAnotherNameIsStillThere(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id := b.Pools()[0].ID
	b.cfg.Pools[0].Name = "fast"
	b.reopen()
	if p := b.Pools()[0]; !p.Available || p.ID != id || p.Name != "fast" {
		t.Fatalf("%+v", p)
	}
	if _, err := b.takeAway("fast"); err != nil {
		t.Fatal(err)
	}
	b.cfg.Pools[0].Name = "faster"
	b.reopen()
	if p := b.Pools()[0]; p.Available || p.ID != id {
		t.Errorf("a missing pool was made anew under another name: %+v", p)
	}
}

func TestOneUnreadableRegistrationDoesNotCloseTheOtherPools(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	if err := durable.WriteFile(b.state, stateDirPools+"/broken.json", []byte("{")); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if p := b.Pools()[0]; !p.Available {
		t.Errorf("%+v", p)
	}
	// But nobody knows whether a pool that is to be made is the one behind it.
	b.cfg.Pools = append(b.cfg.Pools, PoolConfig{Name: "new", Dir: filepath.Join(b.dir, "new"), Size: volume.GiB})
	b.reopen()
	if p := b.Pools()[1]; p.Available || !strings.Contains(p.Reason, "broken.json") {
		t.Errorf("%+v", p)
	}
}

func TestOneBadEntryDoesNotHoldUpTheTrash(t *testing.T) {
	onEach(t, testOneBadEntryDoesNotHoldUpTheTrash)
}

func testOneBadEntryDoesNotHoldUpTheTrash(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, volume.GiB, nil, "default")
	p := b.poolNamed("default")
	if err := p.root.WriteFile(trashDir+"/a-file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := b.create(blockSpec("a"))
	b.reopen()
	p = b.poolNamed("default")
	if err := b.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if err := p.emptyTrash(t.Context()); err != nil {
		t.Error(err)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Error(left)
	}
}

func TestWhatCannotBeReadIsNotDeleted(t *testing.T) { onEach(t, testWhatCannotBeReadIsNotDeleted) }

func testWhatCannotBeReadIsNotDeleted(t *testing.T, fsType string) {
	b := newBenchOn(t, fsType, volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	record := objectDir(v.ID) + "/" + recordFile(volume.KindVolume)
	whole, err := b.poolNamed("default").root.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.poolNamed("default").root.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if err := b.DeleteVolume(t.Context(), v.ID); !errors.Is(err, volume.ErrDataLoss) {
		t.Errorf("a volume with a damaged record was deleted: %v", err)
	}
	if err := b.poolNamed("default").root.WriteFile(record, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	if _, err := b.Volume(t.Context(), v.ID); err != nil {
		t.Errorf("a volume whose record was restored is not back: %v", err)
	}
}

func TestAnIntentOfALivingDriverIsLeftAlone(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id := volume.NewID(volume.KindVolume, b.Pools()[0].ID, "a")
	held, err := b.intents.write(t.Context(), id, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	exists := func() bool {
		_, err := b.state.Lstat(intentFile(id))
		return err == nil
	}
	if _, err := b.intents.thawLeft(t.Context(), id); err != nil || !exists() {
		t.Errorf("a freeze that goes on was forgotten: %v", err)
	}
	if err := held.end(false); err != nil || !exists() {
		t.Errorf("a filesystem that could not be thawed was forgotten: %v", err)
	}
	if _, err := b.intents.thawLeft(t.Context(), id); err != nil || exists() {
		t.Errorf("the intent of a driver that is gone stays: %v", err)
	}
}

func TestTheErrorOfAFullPoolLetsAClaimBeLowered(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	v := b.create(blockSpec("a"))
	_, err := b.ExpandVolume(t.Context(), v.ID, volume.TiB, 0)
	if !errors.Is(err, volume.ErrOutOfRange) || errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("%v", err)
	}
	if err := noSpace(unix.ENOSPC); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("%v", err)
	}
}
