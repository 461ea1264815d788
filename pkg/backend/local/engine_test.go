package local

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/backend/backendtest"
	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/teardown"
	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/test/roottest"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(fillEnv); what != "" {
		fillAsTold(what)
	}
	roottest.Main(m)
}

// bench is a real engine on real pool images, with what a test needs to look
// behind it.
type bench struct {
	*Backend
	t   testing.TB
	cfg Config
	dir string
}

// onEach runs a test for pools on each filesystem.
func onEach(t *testing.T, test func(t *testing.T, fsType string)) {
	for _, fsType := range []string{FilesystemBtrfs, FilesystemXFS} {
		t.Run(fsType, func(t *testing.T) { test(t, fsType) })
	}
}

// newBench makes an engine with a pool image of this size on btrfs for each name.
func newBench(t testing.TB, size volume.Bytes, hook fault.Hook, names ...string) *bench {
	t.Helper()
	return newBenchOn(t, FilesystemBtrfs, size, hook, names...)
}

// newBenchOn is newBench with another filesystem.
func newBenchOn(t testing.TB, fsType string, size volume.Bytes, hook fault.Hook, names ...string) *bench {
	t.Helper()
	roottest.Require(t)
	dir := t.TempDir()
	b := &bench{t: t, dir: dir, cfg: Config{
		StateDir: filepath.Join(dir, "state"), Runner: command.New(), Fault: hook,
		Notice: func(reason Reason, text string) { t.Log("notice:", reason, text) },
	}}
	for _, n := range names {
		b.cfg.Pools = append(b.cfg.Pools, PoolConfig{Name: n, Dir: filepath.Join(dir, n), Size: size, Filesystem: fsType})
	}
	b.open()
	t.Cleanup(b.tearDown)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	engine, err := New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Backend = engine
	if err := engine.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) reopen() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

// tearDown lets go of everything, as a reboot would.
func (b *bench) tearDown() {
	if err := b.Close(); err != nil {
		b.t.Error(err)
	}
	if err := teardown.Below(context.Background(), b.dir); err != nil {
		b.t.Error(err)
	}
}

// poolNamed is an open pool.
func (b *bench) poolNamed(name string) *pool {
	b.t.Helper()
	for _, s := range b.slots {
		if s.cfg.Name == name {
			p, err := s.get()
			if err != nil {
				b.t.Fatal(err)
			}
			return p
		}
	}
	b.t.Fatalf("no pool %s", name)
	return nil
}

// leftovers is what no object explains, once the trash had time to be emptied.
func (b *bench) leftovers() []string {
	var out []string
	tags := map[string]bool{imageTag: true}
	for _, p := range b.available() {
		p.tidy(context.Background())
		for _, dir := range []string{stagingDir, trashDir, quarantineDir} {
			entries, err := fs.ReadDir(p.root.FS(), dir)
			if err != nil {
				out = append(out, err.Error())
			}
			for _, e := range entries {
				out = append(out, fmt.Sprintf("pool %s: %s/%s", p.name, dir, e.Name()))
			}
		}
		p.mu.Lock()
		for id := range p.objects {
			tags[tagOf(id)] = true
		}
		for id, n := range p.promised {
			out = append(out, fmt.Sprintf("pool %s: %v still promised to %s", p.name, n, id))
		}
		for _, dir := range []string{volumesDir, snapshotsDir} {
			entries, err := fs.ReadDir(p.root.FS(), dir)
			if err != nil {
				out = append(out, err.Error())
			}
			for _, e := range entries {
				if _, ok := p.objects[volume.ID(e.Name())]; !ok {
					out = append(out, fmt.Sprintf("pool %s: %s/%s is not in the index", p.name, dir, e.Name()))
				}
			}
		}
		p.mu.Unlock()
	}
	intents, err := os.ReadDir(filepath.Join(b.cfg.StateDir, stateDirFreeze))
	if err != nil {
		out = append(out, err.Error())
	}
	for _, e := range intents {
		out = append(out, "freeze intent "+e.Name())
	}
	loops, err := teardown.LoopsBelow(b.dir)
	if err != nil {
		out = append(out, err.Error())
	}
	for _, l := range loops {
		if !tags[l.Tag] {
			out = append(out, fmt.Sprintf("loop%d on %s", l.Index, l.BackingPath))
		}
	}
	return out
}

// takeAway makes a pool unavailable as a lost disk does, until restore.
func (b *bench) takeAway(name string) (restore func(), err error) {
	var s *slot
	for _, s = range b.slots {
		if s.cfg.Name == name {
			break
		}
	}
	if err := s.close(); err != nil {
		return nil, err
	}
	if err := teardown.Below(context.Background(), s.cfg.Dir); err != nil {
		return nil, err
	}
	image := filepath.Join(s.cfg.Dir, ImageFile)
	if err := os.Rename(image, image+".away"); err != nil {
		return nil, err
	}
	s.tryOpen(context.Background())
	return func() {
		if err := os.Rename(image+".away", image); err != nil {
			b.t.Error(err)
		}
		s.tryOpen(context.Background())
		if _, err := s.get(); err != nil {
			b.t.Error(err)
		}
	}, nil
}

func (b *bench) engine() backendtest.Engine {
	return backendtest.Engine{
		Provisioner: b,
		Attacher:    b,
		Content:     backendtest.DeviceContent(b),
		Reopen: func() (backendtest.Engine, error) {
			b.reopen()
			return b.engine(), nil
		},
		Leftovers:   b.leftovers,
		Unavailable: b.takeAway,
	}
}

func TestConformance(t *testing.T) {
	roottest.Require(t)
	onEach(t, func(t *testing.T, fsType string) {
		backendtest.Run(t, func(t testing.TB, hook fault.Hook) backendtest.Engine {
			return newBenchOn(t, fsType, 6*volume.GiB, hook, "default", "other").engine()
		})
	})
}
