package loop_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/loop"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

const attachAndWaitEnv = "HOLDFAST_LOOP_TEST_ATTACH"

// attachAndWait is the life of a process that is killed after it attached a
// device.
func attachAndWait(image string) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	dev, err := loop.Attach(context.Background(), loop.Config{Backing: f, Tag: filepath.Base(image), BlockSize: 4096})
	if err != nil {
		panic(err)
	}
	fmt.Println(dev.Index())
	time.Sleep(time.Minute)
	dev.Close()
	os.Exit(0)
}

func TestProcessKilledAfterAttachLeavesNoDevice(t *testing.T) {
	roottest.Require(t)
	for range 3 {
		image := filepath.Join(t.TempDir(), newTag(t))
		if err := os.WriteFile(image, make([]byte, volume.MiB), 0o600); err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		child, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{
			Env:   append(os.Environ(), attachAndWaitEnv+"="+image),
			Files: []*os.File{nil, w, os.Stderr},
		})
		w.Close()
		if err != nil {
			t.Fatal(err)
		}
		var index int
		if _, err := fmt.Fscan(r, &index); err != nil {
			t.Fatal(err)
		}
		if found := find(t, filepath.Base(image)); len(found) != 1 || found[0].Index != index {
			t.Errorf("the child attached loop%s, found %v", strconv.Itoa(index), found)
		}
		if err := child.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := child.Wait(); err != nil {
			t.Fatal(err)
		}
		expectGone(t, filepath.Base(image))
	}
}
