package local

import (
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestAWatchdogThatIsToldToStopLeavesNothingFrozen(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.Ext4)
	held, err := b.intents.write(t.Context(), id, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	if err := filesystem.Freeze(root); err != nil {
		t.Fatal(err)
	}
	_, stop := b.watch(100 * time.Millisecond)
	stop()
	if isFrozen(t, root) {
		t.Error("it went and left a filesystem frozen")
	}
	if err := held.end(true); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, stop = b.watch(DefaultFreezeTimeout)
	stop()
	if took := time.Since(begun); took > DefaultFreezeTimeout/2 {
		t.Errorf("with nothing left to do it took %s to stop", took)
	}
}

// The driver is stopped after the watchdog was told to stop, and hangs in a freeze
// that it began meanwhile.
func TestAFreezeThatBeginsWhenTheWatchdogIsToStopIsEndedToo(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	first, _ := b.mounted("a", volume.Ext4)
	second, root := b.mounted("b", volume.Ext4)
	held, err := b.intents.write(t.Context(), first, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 6 * time.Second
	_, stop := b.watch(timeout)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	time.Sleep(2 * watchdogMargin) // it would go after 8 s
	late, err := b.intents.write(t.Context(), second, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	if err := filesystem.Freeze(root); err != nil {
		t.Fatal(err)
	}
	if err := held.end(true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-stopped:
	case <-time.After(4 * timeout):
		t.Error("it does not stop, although its time is over")
	}
	if isFrozen(t, root) {
		t.Error("it went and left a filesystem frozen")
	}
	if err := late.end(true); err != nil {
		t.Fatal(err)
	}
}
