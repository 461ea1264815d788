package scale

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// giveBackDevices removes, at the end of the test, the loop devices that the
// machine did not have before and that nobody uses: a thousand of them would slow
// down everybody who looks for one.
func giveBackDevices(t *testing.T) {
	t.Helper()
	before := loopDevices(t)
	t.Cleanup(func() {
		control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer control.Close()
		for index := range loopDevices(t) {
			if !before[index] {
				// One that somebody uses now is theirs.
				_ = unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, index)
			}
		}
	})
}

func loopDevices(t *testing.T) map[int]bool {
	t.Helper()
	paths, err := filepath.Glob("/sys/block/loop*")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]bool{}
	for _, p := range paths {
		if index, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(p), "loop")); err == nil {
			out[index] = true
		}
	}
	return out
}
