package sparse

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// file makes a file with these pieces of data, at these offsets, and this length.
func file(t *testing.T, size int64, pieces map[int64][]byte) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "file")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for at, data := range pieces {
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.Uint32() | 1) // never 0
	}
	return out
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	out, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func allocated(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestACopyHasTheSameContentAndNoBlocksOfZeros(t *testing.T) {
	const mib = 1 << 20
	cases := map[string]struct {
		size   int64
		pieces map[int64][]byte
		data   int64 // that the copy has at most
	}{
		"nothing":                     {0, nil, 0},
		"one byte":                    {1, map[int64][]byte{0: {7}}, 4096},
		"a hole":                      {5 * mib, nil, 0},
		"zeros that were written":     {3 * mib, map[int64][]byte{0: make([]byte, 2*mib)}, 0},
		"data around a hole":          {9 * mib, map[int64][]byte{100: noise(1, 5000), 8 * mib: noise(2, mib)}, mib + 12<<10},
		"an odd end":                  {mib + 777, map[int64][]byte{mib - 1: noise(3, 778)}, 8 << 10},
		"a block of zeros in between": {12 << 10, map[int64][]byte{0: noise(4, 4096), 8192: noise(5, 4096)}, 8 << 10},
		"more than one piece":         {5*mib + 3, map[int64][]byte{0: noise(6, 5*mib+3)}, 5*mib + 4096},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			src, dst := file(t, c.size, c.pieces), file(t, 0, nil)
			var did volume.Bytes
			sum, err := Copy(t.Context(), dst, src, volume.Bytes(c.size), func(n volume.Bytes) { did += n })
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, src), content(t, dst)) {
				t.Fatal("the copy is not the same")
			}
			if have := allocated(t, dst); have > c.data {
				t.Errorf("the copy takes %d bytes, want %d at most", have, c.data)
			}
			if did > volume.Bytes(c.size) {
				t.Errorf("%d bytes were dealt with, the file has %d", did, c.size)
			}
			for which, f := range map[string]*os.File{"source": src, "copy": dst} {
				if err := Forget(f); err != nil {
					t.Fatal(err)
				}
				again, err := Sum(t.Context(), f, volume.Bytes(c.size), nil)
				if err != nil || again != sum {
					t.Errorf("the digest of the %s is %s (%v), that of the copying %s", which, again, err, sum)
				}
			}
			data, err := Data(src, volume.Bytes(c.size))
			if err != nil || data > volume.Bytes(c.size).RoundUp(Block) {
				t.Errorf("it has %s of data (%v)", data, err)
			}
		})
	}
}

func TestEveryChangedByteChangesTheDigest(t *testing.T) {
	const size = 64<<10 + 100
	f := file(t, size, map[int64][]byte{0: noise(1, 20000), 40000: noise(2, 24000)})
	before, err := Sum(t.Context(), f, size, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Digest]int64{before: -1}
	for _, at := range []int64{0, 1, 4095, 4096, 25000, 39999, 40000, size - 1} {
		old := make([]byte, 1)
		if _, err := f.ReadAt(old, at); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{old[0] + 100}, at); err != nil {
			t.Fatal(err)
		}
		sum, err := Sum(t.Context(), f, size, nil)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[sum]; ok {
			t.Errorf("a change of byte %d has the digest of a change of %d", at, other)
		}
		seen[sum] = at
		if _, err := f.WriteAt(old, at); err != nil {
			t.Fatal(err)
		}
	}
	// Moved, or longer by a hole.
	if sum, err := Sum(t.Context(), file(t, size+4096, map[int64][]byte{0: content(t, f)}), size+4096, nil); err != nil || sum == before {
		t.Errorf("a longer file has the same digest (%v)", err)
	}
	if sum, err := Sum(t.Context(), file(t, 8192, map[int64][]byte{0: noise(9, 4096)}), 8192, nil); err != nil {
		t.Error(err)
	} else if moved, err := Sum(t.Context(), file(t, 8192, map[int64][]byte{4096: noise(9, 4096)}), 8192, nil); err != nil || moved == sum {
		t.Errorf("a block that moved has the same digest (%v)", err)
	}
}

func TestAFileThatBecameShorterIsRefused(t *testing.T) {
	src := file(t, 8192, map[int64][]byte{0: noise(1, 8192)})
	for _, size := range []volume.Bytes{8193, 12288, volume.MiB} {
		if _, err := Copy(t.Context(), file(t, 0, nil), src, size, nil); !errors.Is(err, volume.ErrInUse) {
			t.Errorf("copying %d of 8192 bytes: %v", size, err)
		}
	}
}

func TestACopyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	src := file(t, 4<<20, map[int64][]byte{0: noise(1, 4<<20)})
	_, err := Copy(ctx, file(t, 0, nil), src, 4<<20, func(volume.Bytes) { cancel(reason) })
	if !errors.Is(err, reason) {
		t.Errorf("it ended with %v", err)
	}
}
