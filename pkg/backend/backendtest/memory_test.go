package backendtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/backend/backendtest"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func newMemory(hook fault.Hook) *backendtest.Memory {
	return backendtest.NewMemory(backendtest.MemoryConfig{
		Pools: []backendtest.MemoryPool{{Name: "default", Size: 4 * volume.GiB}, {Name: "fast", Size: 4 * volume.GiB}},
		Fault: hook,
	})
}

func TestMemoryKeepsTheContract(t *testing.T) {
	backendtest.Run(t, func(_ testing.TB, hook fault.Hook) backendtest.Engine { return newMemory(hook).Engine() })
}

func TestMemoryWithOnePoolKeepsTheContract(t *testing.T) {
	backendtest.Run(t, func(_ testing.TB, hook fault.Hook) backendtest.Engine {
		return backendtest.NewMemory(backendtest.MemoryConfig{
			Pools: []backendtest.MemoryPool{{Name: "nvme", Size: 4 * volume.GiB}},
			Fault: hook,
		}).Engine()
	})
}

func available(t *testing.T, m *backendtest.Memory) volume.Bytes {
	t.Helper()
	c, err := m.Capacity(context.Background(), "default", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Available
}

func TestMemoryPromisesEveryByteOnce(t *testing.T) {
	ctx := context.Background()
	m := newMemory(nil)
	wantAvailable := func(want volume.Bytes, when string) {
		t.Helper()
		if got := available(t, m); got != want {
			t.Errorf("%s: %s available, want %s", when, got, want)
		}
	}
	v, err := m.CreateVolume(ctx, blockSpec("a", volume.GiB))
	if err != nil {
		t.Fatal(err)
	}
	wantAvailable(3*volume.GiB, "after a volume of 1 GiB")
	s, err := m.CreateSnapshot(ctx, volume.SnapshotSpec{Name: "s", Source: v.ID, Consistency: volume.ConsistencyCrash})
	if err != nil {
		t.Fatal(err)
	}
	wantAvailable(2*volume.GiB, "after a snapshot of it")
	if _, err := m.ExpandVolume(ctx, v.ID, 3*volume.GiB, 0); err != nil {
		t.Fatal(err)
	}
	wantAvailable(0, "after an expansion to 3 GiB")
	if _, err := m.CreateSnapshot(ctx, volume.SnapshotSpec{Name: "t", Source: v.ID}); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("a snapshot in a full pool: %v, want %v", err, volume.ErrNoSpace)
	}
	if _, err := m.ExpandVolume(ctx, v.ID, 3*volume.GiB+1, 0); !errors.Is(err, volume.ErrOutOfRange) {
		t.Errorf("an expansion in a full pool: %v, want %v", err, volume.ErrOutOfRange)
	}
	if err := errors.Join(m.DeleteSnapshot(ctx, s.ID), m.DeleteVolume(ctx, v.ID)); err != nil {
		t.Fatal(err)
	}
	wantAvailable(4*volume.GiB, "after everything was deleted")
}

func TestMemoryKeepsTheTrashOfADeletionThatFailed(t *testing.T) {
	ctx := context.Background()
	failing := true
	m := newMemory(func(step string) error {
		if failing && step == "delete-volume/free" {
			return errDisk
		}
		return nil
	})
	for _, finish := range []func(id volume.ID) error{
		func(id volume.ID) error { return m.DeleteVolume(ctx, id) },
		func(volume.ID) error { m.Restart(); return nil },
	} {
		failing = true
		v, err := m.CreateVolume(ctx, blockSpec("a", volume.GiB))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DeleteVolume(ctx, v.ID); !errors.Is(err, errDisk) {
			t.Fatalf("delete: %v, want %v", err, errDisk)
		}
		if left := m.Leftovers(); len(left) != 1 || available(t, m) != 3*volume.GiB {
			t.Errorf("half way through a deletion: leftovers %q, %s available", left, available(t, m))
		}
		failing = false
		if err := finish(v.ID); err != nil {
			t.Fatal(err)
		}
		if left := m.Leftovers(); len(left) != 0 || available(t, m) != 4*volume.GiB {
			t.Errorf("after it was finished: leftovers %q, %s available", left, available(t, m))
		}
	}
}

func TestMemoryTurnsAwayASecondCallOnTheSameObject(t *testing.T) {
	ctx := context.Background()
	var m *backendtest.Memory
	var second error
	m = newMemory(func(step string) error {
		if step == "create-volume/build" {
			_, second = m.CreateVolume(ctx, blockSpec("a", volume.MiB))
		}
		return nil
	})
	if _, err := m.CreateVolume(ctx, blockSpec("a", volume.MiB)); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(second, volume.ErrBusy) {
		t.Errorf("a second create while the first one runs: %v, want %v", second, volume.ErrBusy)
	}
}
