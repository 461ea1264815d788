package loop

import (
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

// attachPlain attaches a file of its own until the test ends.
func attachPlain(t *testing.T, tag string) Info {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "image")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(volume.MiB)); err != nil {
		t.Fatal(err)
	}
	dev, err := Attach(t.Context(), Config{Backing: f, Tag: tag, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Detach(); err != nil {
			t.Error(err)
		}
	})
	info, err := dev.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// A device that does not answer, such as one on a server that is gone, keeps the
// others from nobody. No test can make one, so the question is held up here.
func TestAListWaitsOnceForADeviceThatDoesNotAnswer(t *testing.T) {
	roottest.Require(t)
	known := attachPlain(t, "lister-known")
	var hang atomic.Bool
	var asked atomic.Int32
	let := make(chan struct{})
	var never atomic.Int32 // the index of one that never answered
	never.Store(-1)
	l := &Lister{look: func(index int) (Info, bool, error) {
		if hang.Load() && (index == known.Index || index == int(never.Load())) {
			asked.Add(1)
			<-let
		}
		return lookAgain(index)
	}}
	list := func(wait time.Duration) (own []Info, silent []int) {
		t.Helper()
		start := time.Now()
		infos, silent, err := l.List()
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > wait {
			t.Errorf("it took %s", took)
		}
		return slices.DeleteFunc(infos, func(i Info) bool { return i.Tag != "lister-known" && i.Tag != "lister-never" && i.Tag != "lister-good" }), silent
	}
	expect := func(what string, wait time.Duration, want []Info, wantSilent ...int) {
		t.Helper()
		slices.SortFunc(want, func(a, b Info) int { return a.Index - b.Index })
		got, silent := list(wait)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if !slices.Equal(silent, wantSilent) {
			t.Errorf("%s: silent are %v, want %v", what, silent, wantSilent)
		}
	}
	expect("all answer", listWait, []Info{known})
	never.Store(int32(attachPlain(t, "lister-never").Index))
	good := attachPlain(t, "lister-good")
	hang.Store(true)
	expect("two do not", 3*listWait, []Info{known, good}, int(never.Load()))
	for range 3 {
		expect("nobody waits again", listWait/2, []Info{known, good}, int(never.Load()))
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("they were asked %d times", n)
	}
	hang.Store(false)
	close(let)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if got, silent := list(listWait); len(got) == 3 && len(silent) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("they answer, and are not listed")
		}
	}
}
