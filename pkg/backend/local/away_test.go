package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// heard are the notices of an engine.
type heard struct {
	mu   sync.Mutex
	said []string
}

func (h *heard) notice(r Reason, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, string(r)+": "+text)
}

// about are the notices with this reason.
func (h *heard) about(r Reason) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, s := range h.said {
		if text, ok := strings.CutPrefix(s, string(r)+": "); ok {
			out = append(out, text)
		}
	}
	return out
}

func TestPoolsThatAreAllMissingAreMissedByNameAndUsedWhenTheyAreBack(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default", "other")
	v := b.create(blockSpec("a"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := teardown.Below(t.Context(), b.dir); err != nil {
		t.Fatal(err)
	}
	for _, p := range b.cfg.Pools { // with their directories, as when a disk is not mounted
		if err := os.Rename(p.Dir, p.Dir+".away"); err != nil {
			t.Fatal(err)
		}
	}
	var h heard
	b.cfg.Notice = h.notice
	b.open()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx)
	}()
	defer func() {
		stop()
		<-done
	}()
	missed := strings.Join(h.about(PoolMissing), "\n")
	for _, p := range b.cfg.Pools {
		for _, words := range []string{"pool " + p.Name, p.Dir, "without a restart"} {
			if !strings.Contains(missed, words) {
				t.Errorf("nobody is told %q: %s", words, missed)
			}
		}
		if _, err := os.Lstat(p.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory of a registered pool was made anew: %v", err)
		}
	}
	if _, err := b.Volume(t.Context(), v.ID); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	for _, p := range b.cfg.Pools {
		if err := os.Rename(p.Dir+".away", p.Dir); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 3*retryInterval, "both pools are back", func() bool { return len(h.about(PoolBack)) == 2 })
	if _, err := b.Volume(t.Context(), v.ID); err != nil {
		t.Error(err)
	}
	if n := len(h.about(PoolMissing)); n != 2 {
		t.Errorf("two pools were missed %d times: %q", n, h.about(PoolMissing))
	}
}

func TestAPoolThatOpensAtOnceIsNoNews(t *testing.T) {
	b := newBench(t, volume.GiB, nil, "default")
	var h heard
	b.cfg.Notice = h.notice
	b.reopen()
	if len(h.said) > 0 {
		t.Errorf("it said %q", h.said)
	}
}
