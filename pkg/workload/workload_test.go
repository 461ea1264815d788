package workload

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestVerifyFindsOneChangedByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Write(path, 7, 3<<20+5, true); err != nil {
		t.Fatal(err)
	}
	if err := Verify(path, 7, 3<<20+5); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0, 0}, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := Verify(path, 7, 3<<20+5); !errors.Is(err, ErrContent) {
		t.Fatalf("a changed byte went unnoticed: %v", err)
	}
	if err := Verify(path, 8, 3<<20+5); !errors.Is(err, ErrContent) {
		t.Fatalf("another seed passed: %v", err)
	}
	if err := Verify(path, 7, 4<<20); !errors.Is(err, ErrContent) {
		t.Fatalf("a file that is too short passed: %v", err)
	}
}

func TestVerifyReadsFromBelowThePageCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Write(path, 7, 3<<20, true); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cached := func(at int64) error {
		_, err := unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 1)}, at, unix.RWF_NOWAIT)
		return err
	}
	offsets := []int64{0, 1 << 20, 3<<20 - 1}
	for _, at := range offsets {
		if err := cached(at); errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("this filesystem does not say what is in the page cache")
		} else if err != nil {
			t.Fatalf("byte %d is not in the page cache before: %v", at, err)
		}
	}
	if err := dropCache(f); err != nil {
		t.Fatal(err)
	}
	for _, at := range offsets {
		if err := cached(at); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("byte %d is read from the page cache: %v", at, err)
		}
	}
}

func TestJournalCountsWhatIsDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := StartJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.WaitAcked(5, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	acked, err := j.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := VerifyJournal(path); err != nil || n != acked {
		t.Fatalf("journal has %d records, %d were acknowledged: %v", n, acked, err)
	}
}

func TestVerifyJournalToleratesOnlyATornEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	var data []byte
	for seq := uint64(1); seq <= 4; seq++ {
		data = append(data, journalRecord(seq)...)
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(data[:3*recordSize+10])
	if n, err := VerifyJournal(path); err != nil || n != 3 {
		t.Errorf("torn end: %d, %v", n, err)
	}
	write(append(data[:3*recordSize:3*recordSize], make([]byte, recordSize)...))
	if n, err := VerifyJournal(path); err != nil || n != 3 {
		t.Errorf("unwritten end: %d, %v", n, err)
	}
	hole := append([]byte(nil), data...)
	clear(hole[recordSize : 2*recordSize])
	write(hole)
	if _, err := VerifyJournal(path); !errors.Is(err, ErrContent) {
		t.Errorf("a hole in the middle passed: %v", err)
	}
}
