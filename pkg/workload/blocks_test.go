package workload

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestBlocksRememberWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blocks")
	b, err := NewBlocks(path, 1, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Rewrite(func(i int) bool { return i%2 == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 3<<20 || string(after[:BlockSize]) != string(before[:BlockSize]) || string(after[BlockSize:2*BlockSize]) == string(before[BlockSize:2*BlockSize]) {
		t.Error("not every second block was overwritten")
	}
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(); !errors.Is(err, ErrContent) {
		t.Errorf("a lost write is not noticed: %v", err)
	}
}
