package local

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// withoutFiles calls fn while this process can open nothing more.
func withoutFiles(t *testing.T, fn func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	fn()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
}

func TestADriverWithoutFilesDoesNotTakeItsPoolsForDead(t *testing.T) {
	b := newBenchOn(t, FilesystemXFS, volume.GiB, nil, "default")
	b.create(blockSpec("a"))
	b.expect("before", b.wrong("default"))
	withoutFiles(t, func() { b.look(t.Context()) })
	st := b.Stats()[0]
	if !st.Available || len(st.Conditions) != 1 || st.Conditions[0].Reason != string(PoolUnmeasured) {
		t.Errorf("without files: available %t, %v", st.Available, st.Conditions)
	}
	if len(st.Volumes) != 1 {
		t.Errorf("without files there are %d volumes", len(st.Volumes))
	}
	b.expect("with files again", b.wrong("default"))
	// One that is dead does not come to life because nobody can look.
	goDown(t, b.poolNamed("default").dir.Name())
	b.expect("dead", b.wrong("default"), "PoolFailed inaccessible")
	withoutFiles(t, func() { b.look(t.Context()) })
	if st := b.Stats()[0]; st.Available || !isFailed(st) {
		t.Errorf("dead, and without files: available %t, %v", st.Available, st.Conditions)
	}
}
