package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/fault"
	"github.com/holdfast-csi/holdfast/pkg/mount"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// heap is a directory with files to import.
func heap(t *testing.T) *os.File {
	t.Helper()
	dir := t.TempDir()
	for i := range 20 {
		sub := filepath.Join(dir, fmt.Sprintf("dir-%d", i))
		if err := os.Mkdir(sub, 0o750); err != nil {
			t.Fatal(err)
		}
		for j := range 10 {
			text := bytes.Repeat([]byte{byte(i), byte(j), 'x'}, 1000*i+j)
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(j)), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Lchown(sub, 1000+i, 100); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "dir-3", "4"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "link"), "user.a", []byte("b"), 0); err != nil {
		t.Fatal(err)
	}
	return opened(t, dir)
}

func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (b *bench) imports(spec ImportSpec) Imported {
	b.t.Helper()
	got, err := b.Import(b.t.Context(), spec)
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

// refuses demands that an import fails so and leaves nothing.
func (b *bench) refuses(spec ImportSpec, why error, words string) {
	b.t.Helper()
	before := len(b.volumes())
	_, err := b.Import(b.t.Context(), spec)
	if !errors.Is(err, why) || !strings.Contains(fmt.Sprint(err), words) {
		b.t.Errorf("import of %s: %v, want %v that says %q", spec.Name, err, why, words)
	}
	if left := b.leftovers(); len(left) > 0 || len(b.volumes()) != before {
		b.t.Errorf("after %v there is left: %v, %d volumes", err, left, len(b.volumes()))
	}
}

func (b *bench) volumes() []volume.Volume {
	b.t.Helper()
	all, err := b.Volumes(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// attachedMount mounts a volume as a node does, and calls fn with where.
func (b *bench) attachedMount(v volume.Volume, fn func(dir string)) {
	b.t.Helper()
	dev, err := b.Attach(b.t.Context(), v.ID)
	b.must(err)
	dir := filepath.Join(b.dir, "look")
	root, err := mount.OpenRoot(b.dir)
	b.must(err)
	defer root.Close()
	target, err := root.CreateTarget(dir, mount.Dir)
	b.must(err)
	tree, err := mount.New(b.t.Context(), mount.Config{FSType: string(v.Format.FSType), Source: dev.Path})
	b.must(err)
	b.must(errors.Join(tree.Attach(target), tree.Close(), target.Close(), dev.Close()))
	fn(dir)
	b.must(root.Unmount(b.t.Context(), dir))
	b.must(b.Detach(b.t.Context(), v.ID))
}

// described is what find(1) and sha256sum(1) say of a directory.
func described(t *testing.T, dir string) string {
	t.Helper()
	const script = `cd "$1" && find . -name lost+found -prune -o -printf '%p %y %m %U %G %T@ %n\n' | sort && find . -type f -print0 | sort -z | xargs -0 -r sha256sum`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	// Directories have other numbers of links on other filesystems.
	var lines []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) == 7 && fields[1] == "d" {
			line = strings.Join(fields[:6], " ")
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}

func TestADirectoryBecomesAVolume(t *testing.T) { onEach(t, testADirectoryBecomesAVolume) }

func testADirectoryBecomesAVolume(t *testing.T, pool string) {
	b := newBenchOn(t, pool, 4*volume.GiB, nil, "default")
	src := heap(t)
	want := described(t, src.Name())
	for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
		var last volume.Bytes
		spec := ImportSpec{Name: "a-" + string(fsType), Source: src, Format: volume.Format{FSType: fsType},
			Progress: func(done, total volume.Bytes) {
				if done < last || done > total {
					t.Errorf("progress went from %s to %s of %s", last, done, total)
				}
				last = done
			}}
		got := b.imports(spec)
		if got.Existed || got.Entries != 222 || got.Volume.Format.FSType != fsType || last == 0 {
			t.Errorf("%+v", got)
		}
		if got.Volume.Size < got.Content || got.Volume.Size > got.Content*2+300*volume.MiB {
			t.Errorf("the content is %s, the volume %s", got.Content, got.Volume.Size)
		}
		if left := b.leftovers(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		b.attachedMount(got.Volume, func(dir string) {
			if have := described(t, dir); have != want {
				t.Errorf("the volume has\n%s\nthe source\n%s", have, want)
			}
		})
		again := b.imports(spec)
		if !again.Existed || again.Volume != got.Volume {
			t.Errorf("the same import again: %+v", again)
		}
		b.reopen()
		if again := b.imports(spec); !again.Existed || again.Volume.ID != got.Volume.ID {
			t.Errorf("after a restart: %+v", again)
		}
		// It is a volume like any other.
		snap, err := b.CreateSnapshot(t.Context(), volume.SnapshotSpec{Name: spec.Name, Source: got.Volume.ID, Consistency: volume.ConsistencyFilesystem})
		b.must(err)
		restored := b.mustCreate(volume.Spec{Name: spec.Name + "-restored", Source: volume.Source{Snapshot: snap.ID}, Format: volume.Format{Mode: volume.ModeFilesystem}, Size: got.Volume.Size})
		b.attachedMount(restored, func(dir string) {
			if have := described(t, dir); have != want {
				t.Errorf("a restore has\n%s", have)
			}
		})
		if grown, err := b.ExpandVolume(t.Context(), got.Volume.ID, got.Volume.Size+volume.GiB, 0); err != nil || grown.Size != got.Volume.Size+volume.GiB {
			t.Errorf("growing: %+v, %v", grown, err)
		}
		b.must(errors.Join(b.DeleteSnapshot(t.Context(), snap.ID), b.DeleteVolume(t.Context(), restored.ID), b.DeleteVolume(t.Context(), got.Volume.ID)))
	}
	if have := described(t, src.Name()); have != want {
		t.Errorf("the source has changed:\n%s", have)
	}
	b.mustBeWell("after imports")
}

// Each step is failed once, and the import made again.
func TestAnImportExistsCompletelyOrNotAtAll(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		var steps []string
		fail, broken := "", errors.New("broken on purpose")
		b := newBenchOn(t, pool, 3*volume.GiB, fault.Hook(func(step string) error {
			if strings.HasPrefix(step, "import-volume/") {
				steps = append(steps, step)
				if step == fail {
					return broken
				}
			}
			return nil
		}), "default")
		for name, source := range map[string]func() *os.File{"directory": func() *os.File { return heap(t) }, "image": func() *os.File { return noisyImage(t, 3*volume.MiB) }} {
			src := source()
			steps, fail = nil, ""
			b.imports(ImportSpec{Name: name, Source: src})
			all := slices.Clone(steps)
			t.Logf("%s: %v", name, all)
			if len(all) < 6 {
				t.Fatalf("only the steps %v", all)
			}
			for i, step := range all {
				spec := ImportSpec{Name: fmt.Sprintf("%s-%d", name, i), Source: src}
				fail = step
				_, err := b.Import(t.Context(), spec)
				if !errors.Is(err, broken) {
					t.Errorf("%s: %v", step, err)
				}
				fail = ""
				if step == "import-volume/renamed" {
					// It is there, and nobody was told: the next start, or call, finds it.
					b.reopen()
					if len(b.volumes()) != len(b.volumesOf(name, i)) {
						t.Errorf("%s: there are %d volumes", step, len(b.volumes()))
					}
				} else if left := b.leftovers(); len(left) > 0 {
					t.Errorf("%s: left: %v", step, left)
				}
				got := b.imports(spec)
				if got.Existed != (step == "import-volume/renamed") {
					t.Errorf("%s: %+v", step, got)
				}
				if got.Volume.Format.Mode == volume.ModeFilesystem {
					b.attachedMount(got.Volume, func(dir string) {
						if described(t, dir) != described(t, src.Name()) {
							t.Errorf("%s: the volume differs", step)
						}
					})
				}
				b.must(b.DeleteVolume(t.Context(), got.Volume.ID))
			}
			b.must(b.DeleteVolume(t.Context(), volume.NewID(volume.KindVolume, b.poolNamed("default").id, name)))
			b.poolNamed("default").tidy(context.Background())
		}
	})
}

// volumesOf are the volumes that should be there: the first, and the one at hand.
func (b *bench) volumesOf(name string, i int) (out []volume.Volume) {
	for _, v := range b.volumes() {
		if v.Name == name || v.Name == fmt.Sprintf("%s-%d", name, i) {
			out = append(out, v)
		}
	}
	return out
}

func TestImportsThatAreRefused(t *testing.T) {
	b := newBench(t, 2*volume.GiB, nil, "default", "other")
	src := heap(t)
	b.create(blockSpec("taken"))
	b.refuses(ImportSpec{Source: src}, volume.ErrInvalid, "needs a name")
	b.refuses(ImportSpec{Name: "taken", Source: src}, volume.ErrExists, "was not imported")
	b.refuses(ImportSpec{Name: "a", Source: src, Pool: "tape"}, volume.ErrInvalid, "no pool")
	b.refuses(ImportSpec{Name: "a", Source: src, Size: 10 * volume.GiB}, volume.ErrNoSpace, "promises")
	b.refuses(ImportSpec{Name: "a", Source: src, Size: 2 * volume.MiB}, volume.ErrOutOfRange, "too small")
	b.refuses(ImportSpec{Name: "a", Source: src, Format: volume.Format{Mode: volume.ModeBlock}}, volume.ErrInvalid, "a directory becomes")
	b.refuses(ImportSpec{Name: "a", Source: src, Format: volume.Format{FSType: "btrfs"}}, volume.ErrInvalid, "supported are")
	b.refuses(ImportSpec{Name: "a", Source: opened(t, b.poolNamed("default").dir.Name())}, volume.ErrInvalid, "is a pool")
	b.refuses(ImportSpec{Name: "a", Source: opened(t, "/dev/null")}, volume.ErrInvalid, "neither a directory nor a file")

	// One file is too much for the size that was asked for, which only the copying
	// shows: ext4 needs some of it.
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "large"), bytes.Repeat([]byte("full"), 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b.refuses(ImportSpec{Name: "a", Source: opened(t, full), Size: 17 * volume.MiB}, volume.ErrOutOfRange, "ask for a larger one")

	writer, err := os.OpenFile(filepath.Join(src.Name(), "dir-1", "1"), os.O_WRONLY, 0)
	b.must(err)
	b.refuses(ImportSpec{Name: "a", Source: src}, volume.ErrInUse, "open for writing")
	b.must(writer.Close())

	got := b.imports(ImportSpec{Name: "a", Source: src})
	b.refuses(ImportSpec{Name: "a", Source: heap(t)}, volume.ErrExists, "from something else")
	b.refuses(ImportSpec{Name: "a", Source: src, Format: volume.Format{FSType: volume.XFS}}, volume.ErrExists, "not xfs")
	b.refuses(ImportSpec{Name: "a", Source: src, Size: volume.GiB}, volume.ErrExists, "less than")
	b.refuses(ImportSpec{Name: "a", Source: src, Pool: "other"}, volume.ErrExists, "not in pool")
	b.must(b.DeleteVolume(t.Context(), got.Volume.ID))
}

func TestAnImportThatIsBrokenOffLeavesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		b := newBenchOn(t, pool, 2*volume.GiB, nil, "default")
		enough := errors.New("enough")
		for _, src := range []*os.File{heap(t), noisyImage(t, 8*volume.MiB)} {
			ctx, cancel := context.WithCancelCause(t.Context())
			_, err := b.Import(ctx, ImportSpec{Name: "a", Source: src, Progress: func(volume.Bytes, volume.Bytes) { cancel(enough) }})
			if !errors.Is(err, enough) {
				t.Errorf("it ended with %v", err)
			}
			if left := b.leftovers(); len(left) > 0 || len(b.volumes()) > 0 {
				t.Errorf("left: %v, %d volumes", left, len(b.volumes()))
			}
		}
	})
}

// The smallest sensible size is large enough, whatever the directory consists of.
func TestTheSizeThatIsChosenIsEnough(t *testing.T) {
	trees := map[string]func(dir string){
		"nothing": func(string) {},
		"many empty files": func(dir string) {
			for i := range 5000 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("a-file-with-a-rather-long-name-of-%d-and-more", i)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"many small files": func(dir string) {
			for i := range 20 {
				sub := filepath.Join(dir, fmt.Sprint(i))
				if err := os.Mkdir(sub, 0o700); err != nil {
					t.Fatal(err)
				}
				for j := range 100 {
					if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(j)), []byte("small"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		},
		"one large file": func(dir string) {
			block := bytes.Repeat([]byte("large!"), 1<<20)
			f, err := os.Create(filepath.Join(dir, "large"))
			if err != nil {
				t.Fatal(err)
			}
			for range 30 {
				if _, err := f.Write(block); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"one that is mostly a hole": func(dir string) {
			f, err := os.Create(filepath.Join(dir, "hole"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("end"), 1<<40); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		},
	}
	b := newBench(t, 8*volume.GiB, nil, "default")
	for name, grow := range trees {
		dir := t.TempDir()
		grow(dir)
		for _, fsType := range []volume.FSType{volume.Ext4, volume.XFS} {
			got, err := b.Import(t.Context(), ImportSpec{Name: name + string(fsType), Source: opened(t, dir), Format: volume.Format{FSType: fsType}})
			if err != nil {
				t.Errorf("%s into %s: %v", name, fsType, err)
				continue
			}
			t.Logf("%s: %d entries and %s in an %s of %s", name, got.Entries, got.Content, fsType, got.Volume.Size)
			if got.Volume.Size > 2*got.Content+300*volume.MiB {
				t.Errorf("%s: %s for %s", name, got.Volume.Size, got.Content)
			}
			b.must(b.DeleteVolume(t.Context(), got.Volume.ID))
		}
	}
}

// What has been written of an import is not promised a second time: while it runs,
// others may have what is left.
func TestAnImportUnderWayIsReckonedOnce(t *testing.T) {
	onEach(t, func(t *testing.T, pool string) {
		b := newBenchOn(t, pool, 2*volume.GiB, nil, "default")
		p := b.poolNamed("default")
		before, err := p.room()
		b.must(err)
		const size = 512 * volume.MiB
		var least volume.Bytes = 1 << 60
		img := noisyImage(t, size)
		b.imports(ImportSpec{Name: "a", Source: img, Progress: func(done, _ volume.Bytes) {
			if done > 400*volume.MiB {
				room, err := p.room()
				b.must(err)
				least = min(least, room)
			}
		}})
		// Without it 400 MiB would be missing.
		if want := before - size*5/4 - 128*volume.MiB; least < want {
			t.Errorf("at the end of an import of %s there was room for %s, want %s at least; it was %s before", volume.Bytes(size), least, want, before)
		}
	})
}
