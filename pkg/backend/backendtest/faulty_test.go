package backendtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/backend/backendtest"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

var errDisk = errors.New("the disk is on fire")

func blockSpec(name string, size volume.Bytes) volume.Spec {
	return volume.Spec{Name: name, Size: size, Format: volume.Format{Mode: volume.ModeBlock}}
}

func TestFaultyWithoutPlanKeepsTheContract(t *testing.T) {
	backendtest.Run(t, func(_ testing.TB, hook fault.Hook) backendtest.Engine {
		m := newMemory(hook)
		e := m.Engine()
		f := backendtest.NewFaulty(m, m)
		e.Provisioner, e.Attacher = f, f
		e.Reopen = func() (backendtest.Engine, error) {
			m.Restart()
			return e, nil
		}
		return e
	})
}

func TestFaultyFailsTheNthCallOnly(t *testing.T) {
	ctx := context.Background()
	m := newMemory(nil)
	f := backendtest.NewFaulty(m, m)
	f.Fail(backendtest.MethodCreateVolume, 2, errDisk)
	for i, want := range []error{nil, errDisk, nil} {
		if _, err := f.CreateVolume(ctx, blockSpec(string(rune('a'+i)), volume.MiB)); !errors.Is(err, want) {
			t.Errorf("call %d: %v, want %v", i+1, err, want)
		}
	}
	if n := f.Calls(backendtest.MethodCreateVolume); n != 3 {
		t.Errorf("%d calls counted, 3 were made", n)
	}
	if all, err := f.Volumes(ctx); err != nil || len(all) != 2 {
		t.Errorf("volumes after one create of three failed: %v, %v", all, err)
	}
}

func TestFaultyLosesAnAnswerAfterTheWork(t *testing.T) {
	ctx := context.Background()
	m := newMemory(nil)
	f := backendtest.NewFaulty(m, m)
	f.FailAfter(backendtest.MethodCreateVolume, 1, errDisk)
	if _, err := f.CreateVolume(ctx, blockSpec("a", volume.MiB)); !errors.Is(err, errDisk) {
		t.Fatalf("create: %v, want %v", err, errDisk)
	}
	all, err := m.Volumes(ctx)
	if err != nil || len(all) != 1 {
		t.Fatalf("the engine has %v, %v, want the volume", all, err)
	}
	f.FailAfter(backendtest.MethodAttach, 1, errDisk)
	if _, err := f.Attach(ctx, all[0].ID); !errors.Is(err, errDisk) {
		t.Errorf("attach: %v, want %v", err, errDisk)
	}
	if _, ok, err := f.Lookup(ctx, all[0].ID); !ok || err != nil {
		t.Errorf("look up after an attach whose answer was lost: %v, %v", ok, err)
	}
	f.Fail(backendtest.MethodLookup, 1, errDisk)
	if _, ok, err := f.Lookup(ctx, all[0].ID); ok || !errors.Is(err, errDisk) {
		t.Errorf("look up: %v, %v, want %v", ok, err, errDisk)
	}
}
