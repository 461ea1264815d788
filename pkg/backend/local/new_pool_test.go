package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// blocked is a pool that cannot be made before free is called.
func (b *bench) blocked(name string) (pc PoolConfig, free func()) {
	b.t.Helper()
	disk := filepath.Join(b.dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return PoolConfig{Name: name, Dir: filepath.Join(disk, name), Size: volume.GiB}, func() {
		if err := os.Remove(disk); err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestAPoolThatIsNewAfterTheStartSaysThatKubeletDoesNotKnowIt(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	large, free := b.blocked("large")
	var h heard
	b.cfg.Notice = h.notice
	b.cfg.Pools = append(b.cfg.Pools, large)
	b.reopen()
	if missed := h.about(PoolMissing); len(missed) != 1 || strings.Contains(missed[0], "data") || strings.Contains(missed[0], "back") {
		t.Errorf("of a pool that never was it said %q", missed)
	}
	free()
	b.slots[1].tryOpen(t.Context())
	b.poolNamed("large")
	said := h.about(PoolNew)
	if len(said) != 1 || len(h.about(PoolBack)) > 0 {
		t.Fatalf("it said %q and %q", said, h.about(PoolBack))
	}
	for _, words := range []string{"pool large (" + large.Dir + ")", "restart the driver's pod", "Pending"} {
		if !strings.Contains(said[0], words) {
			t.Errorf("nobody is told %q: %s", words, said[0])
		}
	}
	restore, err := b.takeAway("large")
	if err != nil {
		t.Fatal(err)
	}
	restore()
	if back := h.about(PoolBack); len(back) != 1 || len(h.about(PoolNew)) != 1 {
		t.Errorf("of a pool that was here it said %q", back)
	}
}

// kubelet has no answer while there is no pool at all, and asks again.
func TestTheFirstPoolOfANodeNeedsNoRestart(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	only, free := b.blocked("only")
	var h heard
	b.cfg.Notice = h.notice
	b.cfg.StateDir = filepath.Join(b.dir, "state-of-a-new-node")
	b.cfg.Pools = []PoolConfig{only}
	b.reopen()
	free()
	b.slots[0].tryOpen(t.Context())
	b.poolNamed("only")
	if back := h.about(PoolBack); len(back) != 1 || !strings.Contains(back[0], "for the first time") || len(h.about(PoolNew)) > 0 {
		t.Errorf("it said %q", h.said)
	}
}

func TestAPoolWhoseDiskDoesNotAnswerIsKnownAllTheSame(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, dir := b.Pools()[0].ID, b.cfg.Pools[0].Dir
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(dir, 0o600); err != nil { // whoever opens it waits
		t.Fatal(err)
	}
	engine, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Backend = engine
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := engine.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the disk answered: %v", err)
	}
	if p := engine.Pools()[0]; p.Available || p.ID != id {
		t.Errorf("%+v, want the id %s", p, id)
	}
	w, err := os.OpenFile(dir, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	within(t, soon, "the disk has answered", func() bool { return !strings.Contains(engine.Pools()[0].Reason, "not opened yet") })
}

func TestTheSameTroubleWithOtherNumbersIsNoNews(t *testing.T) {
	roottest.Require(t)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	var h heard
	dir := filepath.Join(disk, "pool")
	b, err := New(Config{
		Pools: []PoolConfig{{Name: "default", Dir: dir, Size: volume.GiB}}, StateDir: t.TempDir(), Runner: command.New(), Notice: h.notice,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := b.slots[0]
	reasons := map[string]bool{}
	for i := range 4 { // free are 64 MiB, 33 MiB, 512 KiB, 508 KiB
		s.tryOpen(t.Context())
		reasons[b.Pools()[0].Reason] = true
		fill := []int{31 << 20, 32<<20 + 512<<10, 4 << 10, 0}[i]
		if err := os.WriteFile(filepath.Join(disk, fmt.Sprint("file-", i)), make([]byte, fill), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(reasons) != 4 || len(h.about(PoolMissing)) != 1 {
		t.Errorf("of %d texts it told %q", len(reasons), h.about(PoolMissing))
	}
	s.missed.told = s.missed.told.Add(-remindAfter)
	s.tryOpen(t.Context())
	if n := len(h.about(PoolMissing)); n != 2 {
		t.Errorf("after %s it was told %d times", remindAfter, n)
	}
	if err := errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.tryOpen(t.Context())
	if told := h.about(PoolMissing); len(told) != 3 || !strings.Contains(told[2], "not a directory") {
		t.Errorf("other trouble is news; it told %q", told)
	}
}
