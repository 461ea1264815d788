package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/command"
	"github.com/holdfast-csi/holdfast/pkg/filesystem"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// crashEnv names the step at which the child process kills itself; the directory
// of its bench is its working directory.
const crashEnv = "HOLDFAST_NODE_TEST_CRASH"

// life is what happens to a volume on a node, as calls that may be repeated.
type life struct {
	name string
	call func(context.Context, *bench, volume.Volume) error
}

func lives() []life {
	return []life{
		{"stage", func(ctx context.Context, b *bench, v volume.Volume) error {
			_, err := b.NodeStageVolume(ctx, b.stageRequest(v, rwo))
			return err
		}},
		{"publish", func(ctx context.Context, b *bench, v volume.Volume) error {
			_, err := b.NodePublishVolume(ctx, b.publishRequest(v, "rw", rwo))
			return err
		}},
		{"publish read-only", func(ctx context.Context, b *bench, v volume.Volume) error {
			_, err := b.NodePublishVolume(ctx, readOnly(b.publishRequest(v, "ro", rwo)))
			return err
		}},
		{"expand", func(ctx context.Context, b *bench, v volume.Volume) error {
			_, err := b.NodeExpandVolume(ctx, b.expandRequest(v, b.target("rw")))
			return err
		}},
		{"unpublish", func(ctx context.Context, b *bench, v volume.Volume) error { return b.unpublish(ctx, v, "rw") }},
		{"unpublish read-only", func(ctx context.Context, b *bench, v volume.Volume) error { return b.unpublish(ctx, v, "ro") }},
		{"unstage", func(ctx context.Context, b *bench, v volume.Volume) error { return b.unstage(ctx, v) }},
	}
}

func formatsToCrash() map[string]volume.Format {
	return map[string]volume.Format{"ext4": ext4, "xfs": xfs, "block": block}
}

// prepare makes a volume whose filesystem is smaller than its device, so that the
// growing steps are taken too.
func (b *bench) prepare(t testing.TB, f volume.Format) volume.Volume {
	v := b.images.create(t, "v", f, sizeOf(f))
	return b.images.expand(t, v, sizeOf(f)*2)
}

func TestEveryCallSucceedsAfterAFailureAtEachStep(t *testing.T) {
	for name, format := range formatsToCrash() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.prepare(t, format)
			reached := map[string]bool{}
			broken := errors.New("broken by the test")
			for _, l := range lives() {
				// Fail at the first new step of the call, again and again, until it
				// gets through.
				var failed string
				b.fault = func(step string) error {
					if reached[l.name+step] {
						return nil
					}
					reached[l.name+step], failed = true, step
					return broken
				}
				for {
					failed = ""
					err := l.call(t.Context(), b, v)
					if failed == "" && err == nil {
						break
					}
					if !errors.Is(err, broken) {
						t.Fatalf("%s, broken at %q: %v", l.name, failed, err)
					}
				}
			}
			b.fault = nil
			b.wantNothing(t, v)
		})
	}
}

func TestEveryCallSucceedsAfterAKillAtEachStep(t *testing.T) {
	for name, format := range formatsToCrash() {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			v := b.prepare(t, format)
			kills := 0
			for _, l := range lives() {
				for _, step := range stepsOf(l) {
					if !b.kill(t, l.name, step, v) {
						continue // done meanwhile: the call has nothing left to do
					}
					kills++
					// What a reader sees after the kill is all or nothing.
					for _, i := range []string{b.staging(v), b.target("rw"), b.target("ro")} {
						b.wantWholeOrNothing(t, i, v)
					}
				}
				if err := l.call(t.Context(), b, v); err != nil {
					t.Fatalf("%s after the kills: %v", l.name, err)
				}
			}
			b.wantNothing(t, v)
			t.Logf("%d kills", kills)
			if kills < 15 {
				t.Error("so few kills: the steps are not reached")
			}
		})
	}
}

// stepsOf are the steps whose names start as the call's do.
func stepsOf(l life) []string {
	call, _, _ := strings.Cut(l.name, " ")
	return slices.DeleteFunc(Steps(), func(s string) bool { return !strings.HasPrefix(s, "node-"+call+"/") })
}

func (b *bench) wantWholeOrNothing(t *testing.T, path string, v volume.Volume) {
	t.Helper()
	infos, err := mount.List()
	if err != nil {
		t.Fatal(err)
	}
	layers := mount.At(infos, path)
	if len(layers) > 1 {
		t.Errorf("%d layers at %s", len(layers), path)
	}
	if len(layers) == 0 || v.Format.Mode == volume.ModeBlock {
		return
	}
	root, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if v.Format.FSType == volume.XFS {
		if size, err := filesystem.Size(root, volume.XFS); err != nil || size != v.Size {
			t.Errorf("%s is mounted with %s, %v; want %s", path, size, err, v.Size)
		}
	}
}

// kill runs a call in another process of this mount namespace, which kills itself
// at a step. It is false if the call succeeded without reaching the step.
func (b *bench) kill(t *testing.T, call, step string, v volume.Volume) bool {
	t.Helper()
	job, err := json.Marshal(crashJob{Call: call, Volume: v})
	if err != nil {
		t.Fatal(err)
	}
	child, err := os.StartProcess("/proc/self/exe", []string{"node.test", string(job)}, &os.ProcAttr{
		Dir:   filepath.Dir(b.kubelet),
		Env:   append(os.Environ(), crashEnv+"="+step),
		Files: []*os.File{nil, os.Stdout, os.Stderr},
	})
	if err != nil {
		t.Fatal(err)
	}
	state, err := child.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if status := state.Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true
	}
	if !state.Success() {
		t.Fatalf("%s with a kill at %s: %s", call, step, state)
	}
	return false
}

type crashJob struct {
	Call   string
	Volume volume.Volume
}

// crashAt is the main function of the child process.
func crashAt(step string) int {
	if err := crash(step); err != nil {
		fmt.Fprintln(os.Stderr, "crash child:", err)
		return 1
	}
	return 0
}

func crash(step string) error {
	var job crashJob
	if err := json.Unmarshal([]byte(os.Args[1]), &job); err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	b := &bench{images: &images{dir: filepath.Join(dir, "images")}, kubelet: filepath.Join(dir, "kubelet")}
	root, err := mount.OpenRoot(b.kubelet)
	if err != nil {
		return err
	}
	defer root.Close()
	b.Server = New(Config{Backend: b.images, Kubelet: root, Runner: command.New(), Fault: func(s string) error {
		if s != step {
			return nil
		}
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}})
	for _, l := range lives() {
		if l.name == job.Call {
			return l.call(context.Background(), b, job.Volume)
		}
	}
	return fmt.Errorf("no call %q", job.Call)
}
