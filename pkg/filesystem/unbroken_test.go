package filesystem_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// slowTools puts programs in PATH that leave a file with their name beside the device
// once somebody has made the file go there.
func slowTools(t *testing.T, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		script := "#!/bin/sh\nfor dev; do :; done\n: >\"$dev.started\"\nuntil [ -e \"$dev.go\" ]; do sleep 0.02; done\n: >\"$dev.$(basename \"$0\")\"\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestCheckAndGrowthGoOnWhenNobodyWaits(t *testing.T) {
	requireTool(t, "mkfs.ext4")
	slowTools(t, "e2fsck", "resize2fs")
	runner := command.New()
	for name, work := range map[string]func(ctx context.Context, dev string) error{
		"e2fsck": func(ctx context.Context, dev string) error {
			return filesystem.Check(ctx, runner, dev, volume.Ext4)
		},
		"resize2fs": func(ctx context.Context, dev string) error {
			return filesystem.GrowOffline(ctx, runner, dev)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dev := newFilesystem(t, volume.Ext4, 16*volume.MiB)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				for ctx.Err() == nil {
					if _, err := os.Stat(dev + ".started"); err == nil {
						cancel()
					}
					time.Sleep(time.Millisecond)
				}
			}()
			err := work(ctx, dev)
			if !errors.Is(err, volume.ErrUnavailable) || !errors.Is(err, context.Canceled) {
				t.Errorf("an impatient call = %v, want ErrUnavailable and Canceled", err)
			}
			if _, err := os.Stat(dev + "." + name); err == nil {
				t.Fatal("it had finished, so this test shows nothing")
			}
			if err := os.WriteFile(dev+".go", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := runner.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(dev + "." + name); err != nil {
				t.Errorf("it did not finish: %v", err)
			}
			if err := work(t.Context(), dev); err != nil {
				t.Errorf("the same call again = %v", err)
			}
		})
	}
}

// The size makes resize2fs write for a while, mostly bitmaps and descriptors.
func TestGrowthThatNobodyWaitedForLeavesASoundFilesystem(t *testing.T) {
	requireTool(t, "resize2fs")
	const grown = 200 * volume.GiB
	path := newFilesystem(t, volume.Ext4, volume.GiB)
	truncate(t, path, grown)
	runner := command.New()
	abandoned := 0
	for _, patience := range []time.Duration{2, 5, 10, 20} {
		ctx, cancel := context.WithTimeout(t.Context(), patience*time.Millisecond)
		err := filesystem.GrowOffline(ctx, runner, path)
		cancel()
		if errors.Is(err, volume.ErrUnavailable) {
			abandoned++
		} else if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("GrowOffline = %v", err)
		}
	}
	if abandoned == 0 {
		t.Log("resize2fs was faster than the shortest patience, so this shows little")
	}
	if err := filesystem.Check(t.Context(), runner, path, volume.Ext4); err != nil {
		t.Error(err)
	}
	if err := filesystem.GrowOffline(t.Context(), runner, path); err != nil {
		t.Error(err)
	}
	if sb, err := probe(t, path); err != nil || sb.Size != grown {
		t.Errorf("Probe = %+v, %v, want %s", sb, err, grown)
	}
	if out, err := runner.Run(t.Context(), "e2fsck", "-f", "-n", "--", path); err != nil {
		t.Errorf("e2fsck -fn: %v: %s", err, out)
	}
}
