package local

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// ofAnotherBoot makes the intent of a volume one that was written before a reboot.
func (b *bench) ofAnotherBoot(id volume.ID) {
	b.t.Helper()
	text, err := b.state.ReadFile(intentFile(id))
	if err != nil {
		b.t.Fatal(err)
	}
	boot, _, err := uptime()
	if err != nil {
		b.t.Fatal(err)
	}
	f, err := b.state.OpenFile(intentFile(id), os.O_WRONLY, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := f.WriteString(strings.Replace(string(text), boot, strings.Repeat("0", len(boot)), 1)); err != nil {
		b.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.t.Fatal(err)
	}
}

func TestAnIntentOfAnotherBootIsNotOld(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.Ext4)
	held, err := b.intents.write(t.Context(), id, volume.Ext4)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := held.end(true); err != nil {
			t.Error(err)
		}
	}()
	b.ofAnotherBoot(id)
	if err := filesystem.Freeze(root); err != nil {
		t.Fatal(err)
	}
	if _, frozen, err := b.intents.breakFreeze(t.Context(), id, -time.Hour); frozen || err != nil || !isFrozen(t, root) {
		t.Errorf("its age was believed: %t, %v", frozen, err)
	}
}

// left writes an intent whose driver is gone.
func (b *bench) left(id volume.ID) {
	b.t.Helper()
	held, err := b.intents.write(b.t.Context(), id, volume.Ext4)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := held.end(false); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) mustHaveIntents(want int) {
	b.t.Helper()
	if ids, err := b.intents.list(); err != nil || len(ids) != want {
		b.t.Errorf("intents: %v, %v; want %d", ids, err, want)
	}
}

// Whoever has frozen the filesystem now, it was not the one of that intent.
func TestAnIntentOfAnotherBootIsForgottenAndNothingIsThawed(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.Ext4)
	b.left(id)
	b.ofAnotherBoot(id)
	if err := filesystem.Freeze(root); err != nil {
		t.Fatal(err)
	}
	if frozen, err := b.intents.thawLeft(t.Context(), id); frozen || err != nil || !isFrozen(t, root) {
		t.Errorf("it was thawed: %t, %v", frozen, err)
	}
	b.mustHaveIntents(0)
}

// In a container whose /dev lacks the node, nobody knows whether it is frozen.
func TestAnIntentWhoseDeviceCannotBeLookedAtStays(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.Ext4)
	b.left(id)
	if err := filesystem.Freeze(root); err != nil {
		t.Fatal(err)
	}
	gone, err := os.MkdirTemp("", "dev")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(gone, "/dev", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	removed := os.Remove(gone) // a directory in which no node can be made
	frozen, err := b.intents.thawLeft(t.Context(), id)
	if err := unix.Unmount("/dev", 0); err != nil {
		t.Fatal(err)
	}
	if removed != nil || frozen || err == nil {
		t.Errorf("without a device node: frozen %t, %v; %v", frozen, err, removed)
	}
	b.mustHaveIntents(1)
	if frozen, err := b.intents.thawLeft(t.Context(), id); !frozen || err != nil || isFrozen(t, root) {
		t.Errorf("with the node again: frozen %t, %v", frozen, err)
	}
	b.mustHaveIntents(0)
}

func TestWhoTellsOfAThawDoesNotSayThatADriverDiedForSure(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	id, root := b.mounted("a", volume.Ext4)
	var h heard
	b.Backend.cfg.Notice = h.notice
	b.left(id)
	if err := filesystem.Freeze(root); err != nil {
		t.Fatal(err)
	}
	b.thawLeft(t.Context())
	if said := h.about(FreezeThawed); len(said) != 1 || !strings.Contains(said[0], string(id)) || !strings.Contains(said[0], "or one that lives could not thaw it") {
		t.Errorf("it said %q", said)
	}
}
