package workload

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// recordSize is the size of a journal record in bytes: what a database writes at
// a time.
const recordSize = 4096

// Journal appends records to a file, each synced before the next, until Stop.
type Journal struct {
	file  *os.File
	pause time.Duration // after each record
	stop  chan struct{}
	done  chan struct{}

	mu    sync.Mutex
	acked uint64
	stall time.Duration // longest time from one acknowledgement to the next
	last  time.Time
	err   error
}

// StartJournal starts to write records to a new file.
func StartJournal(path string) (*Journal, error) { return StartPacedJournal(path, 0) }

// StartPacedJournal is StartJournal with a pause after each record, so that a
// writer may run for long in a small volume. The pause counts as stall.
func StartPacedJournal(path string, pause time.Duration) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start journal: %w", err)
	}
	return start(f, pause), nil
}

// StartJournalAt starts to write records to a block device, from this byte on.
// What the device holds there must be zeros.
func StartJournalAt(path string, offset int64) (*Journal, error) {
	return StartPacedJournalAt(path, offset, 0)
}

// StartPacedJournalAt is StartJournalAt with a pause after each record.
func StartPacedJournalAt(path string, offset int64, pause time.Duration) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("start journal: %w", err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("start journal: %w", err), f.Close())
	}
	return start(f, pause), nil
}

func start(f *os.File, pause time.Duration) *Journal {
	j := &Journal{file: f, pause: pause, stop: make(chan struct{}), done: make(chan struct{}), last: time.Now()}
	go j.run()
	return j
}

func (j *Journal) run() {
	defer close(j.done)
	for seq := uint64(1); ; seq++ {
		select {
		case <-j.stop:
			return
		default:
		}
		err := j.append(seq)
		j.mu.Lock()
		if err != nil {
			j.err = err
			j.mu.Unlock()
			return
		}
		now := time.Now()
		j.acked, j.stall, j.last = seq, max(j.stall, now.Sub(j.last)), now
		j.mu.Unlock()
		if j.pause > 0 {
			time.Sleep(j.pause)
		}
	}
}

func (j *Journal) append(seq uint64) error {
	if _, err := j.file.Write(journalRecord(seq)); err != nil {
		return fmt.Errorf("write record %d: %w", seq, err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync record %d: %w", seq, err)
	}
	return nil
}

// Acked is the number of records that are durable, and the first error if
// writing has ended with one.
func (j *Journal) Acked() (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.acked, j.err
}

// WaitAcked waits until n records are durable. It fails after a timeout or on
// the journal's first error.
func (j *Journal) WaitAcked(n uint64, timeout time.Duration) error {
	for end := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		acked, err := j.Acked()
		if err != nil || acked >= n {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the writer stands at record %d and did not reach %d in %s", acked, n, timeout)
		}
	}
}

// Stall is the longest time between two acknowledgements since the last call,
// the time since the newest one included.
func (j *Journal) Stall() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := max(j.stall, time.Since(j.last))
	j.stall = 0
	return out
}

// Stop ends writing and closes the file. It returns how many records are durable
// and the first error of the writer.
func (j *Journal) Stop() (uint64, error) {
	close(j.stop)
	<-j.done
	err := j.file.Close()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.acked, errors.Join(j.err, err)
}

// VerifyJournal checks a journal, or a copy of one taken at any instant: whole
// records in order, then at most one that is not whole. It returns how many
// there are.
func VerifyJournal(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("verify journal: %w", err)
	}
	defer f.Close()
	return verify(f)
}

// VerifyJournalAt is VerifyJournal for a block device with a journal from this
// byte to its end.
func VerifyJournalAt(path string, offset int64) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("verify journal: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return 0, fmt.Errorf("verify journal: %w", err)
	}
	return verify(f)
}

func verify(f *os.File) (uint64, error) {
	buf := make([]byte, recordSize)
	for seq := uint64(1); ; seq++ {
		_, err := io.ReadFull(f, buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return seq - 1, nil
		case err != nil:
			return seq - 1, fmt.Errorf("read record %d of %s: %w", seq, f.Name(), err)
		case bytes.Equal(buf, journalRecord(seq)):
			continue
		}
		// A file may have grown before its last record was written; a device has
		// zeros behind it.
		if !isBlank(buf) || !restIsBlank(f) {
			return seq - 1, fmt.Errorf("%w: %s, record %d", ErrContent, f.Name(), seq)
		}
		return seq - 1, nil
	}
}

func restIsBlank(r io.Reader) bool {
	buf := make([]byte, chunk)
	for {
		n, err := r.Read(buf)
		if !isBlank(buf[:n]) {
			return false
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

func isBlank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// journalRecord is the number of the record and bytes that follow from it.
func journalRecord(seq uint64) []byte {
	out := make([]byte, 0, recordSize)
	out = binary.LittleEndian.AppendUint64(out, seq)
	sum := sha256.Sum256(out)
	for len(out) < recordSize {
		out = append(out, sum[:min(len(sum), recordSize-len(out))]...)
	}
	return out
}
