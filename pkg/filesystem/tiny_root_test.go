package filesystem_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// One run of resize2fs over more than 1024 times destroys the root directory.
func TestTinyExt4BecomesHugeAndKeepsItsFiles(t *testing.T) {
	roottest.Require(t)
	requireTool(t, "resize2fs")
	requireTool(t, "debugfs")
	const grown = 128*volume.GiB + 4096
	runner := command.New()
	path := newFilesystem(t, volume.Ext4, 16*volume.MiB)
	want := fill(t, path+".source", volume.MiB)
	if _, err := runner.Run(t.Context(), "debugfs", "-w", "-R", "write "+path+".source file", path); err != nil {
		t.Fatal(err)
	}
	truncate(t, path, grown)
	dev := attach(t, path).Path()
	for _, patience := range []time.Duration{5, 20} {
		ctx, cancel := context.WithTimeout(t.Context(), patience*time.Millisecond)
		_ = filesystem.GrowOffline(ctx, runner, dev) // a call that nobody waited for
		cancel()
	}
	if err := filesystem.GrowOffline(t.Context(), runner, dev); err != nil {
		t.Fatal(err)
	}
	if sb, err := probe(t, dev); err != nil || !sb.Fills(grown) {
		t.Errorf("Probe = %+v, %v, want about %s", sb, err, grown)
	}
	if out, err := runner.Run(t.Context(), "e2fsck", "-f", "-n", "--", dev); err != nil {
		t.Errorf("e2fsck -fn: %v: %s", err, out)
	}
	if got, err := runner.Run(t.Context(), "debugfs", "-R", "cat file", dev); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has %d bytes and other content, %v", len(got), err)
	}
}
