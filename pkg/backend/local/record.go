package local

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// record is what a pool knows about a volume or a snapshot, next to its data.
type record struct {
	ID   volume.ID `json:"id"`
	Name string    `json:"name"`
	// RawName is the name where it is no valid UTF-8, which JSON would change.
	RawName []byte        `json:"rawName,omitempty"`
	Size    volume.Bytes  `json:"size"`
	Format  volume.Format `json:"format"`
	// Source is what a volume was made from. SnapshotOf and Consistency are a
	// snapshot's.
	Source      volume.Source      `json:"source,omitzero"`
	SnapshotOf  volume.ID          `json:"snapshotOf,omitempty"`
	Consistency volume.Consistency `json:"consistency,omitempty"`
	Created     time.Time          `json:"created"`
	BirthSize   volume.Bytes       `json:"birthSize"`
	// DataUUID is the UUID of the subvolume that holds the image. Device and
	// inode numbers are no identity on btrfs: every image is inode 257.
	DataUUID string `json:"dataUUID"`
	// Origin is what the volume was imported from; empty for all others.
	Origin origin `json:"origin,omitzero"`
}

func (r record) volume() volume.Volume {
	return volume.Volume{ID: r.ID, Name: r.Name, Size: r.Size, Format: r.Format, Source: r.Source, Created: r.Created, BirthSize: r.BirthSize}
}

func (r record) snapshot() volume.Snapshot {
	return volume.Snapshot{ID: r.ID, Name: r.Name, Source: r.SnapshotOf, Size: r.Size, Format: r.Format, Consistency: r.Consistency, Created: r.Created, BirthSize: r.BirthSize}
}

// recordFile is the name of the record inside the object's directory.
func recordFile(kind volume.Kind) string {
	if kind == volume.KindSnapshot {
		return "snapshot.json"
	}
	return "volume.json"
}

// envelope is a record as it lies on the disk. A torn or rotten record fails its
// checksum and is not believed.
type envelope struct {
	Format     int             `json:"format"`
	Generation uint64          `json:"generation"`
	Length     int             `json:"length"` // of Record in bytes
	SHA256     string          `json:"sha256"` // of Record
	Record     json.RawMessage `json:"record"`
}

const (
	recordFormat = 1
	// maxRecord bounds what is read before it is believed, in bytes.
	maxRecord = 64 << 10
	// previousSuffix marks the generation before the current one.
	previousSuffix = ".prev"
)

func encodeRecord(r record, generation uint64) ([]byte, error) {
	if !utf8.ValidString(r.Name) {
		r.RawName = []byte(r.Name)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record of %s: %w", r.ID, err)
	}
	sum := sha256.Sum256(body)
	return json.Marshal(envelope{recordFormat, generation, len(body), hex.EncodeToString(sum[:]), body})
}

// decodeRecord reads a record and checks that it is whole and one of this kind
// and id.
func decodeRecord(data []byte, want volume.ID) (record, uint64, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return record{}, 0, fmt.Errorf("%w: record is not readable: %w", volume.ErrDataLoss, err)
	}
	if e.Format != recordFormat {
		return record{}, 0, fmt.Errorf("%w: record has format %d, this driver knows %d; a newer driver wrote it", volume.ErrPrecondition, e.Format, recordFormat)
	}
	sum := sha256.Sum256(e.Record)
	if len(e.Record) != e.Length || hex.EncodeToString(sum[:]) != e.SHA256 {
		return record{}, 0, fmt.Errorf("%w: record does not match its checksum", volume.ErrDataLoss)
	}
	var r record
	if err := json.Unmarshal(e.Record, &r); err != nil {
		return record{}, 0, fmt.Errorf("%w: record is not readable: %w", volume.ErrDataLoss, err)
	}
	if r.RawName != nil {
		r.Name = string(r.RawName)
	}
	if r.ID != want || volume.NewID(want.Kind(), want.Pool(), r.Name) != want {
		return record{}, 0, fmt.Errorf("%w: record is that of %s (%q), not of %s", volume.ErrDataLoss, r.ID, r.Name, want)
	}
	if f, err := r.Format.Resolve(&r.Format); err != nil || f != r.Format || r.Size <= 0 {
		return record{}, 0, fmt.Errorf("%w: record of %s describes no possible volume", volume.ErrDataLoss, want)
	}
	return r, e.Generation, nil
}

// writeRecord makes r the durable record in dir. The generation before it stays
// readable as a fallback; a damaged one is replaced by r and no fallback.
func writeRecord(root *os.Root, dir string, r record) error {
	name := path.Join(dir, recordFile(r.ID.Kind()))
	_, generation, err := readRecordFile(root, name, r.ID)
	if err == nil {
		if err := durable.Move(root, name, name+previousSuffix); err != nil {
			return fmt.Errorf("keep the previous record of %s: %w", r.ID, err)
		}
	} else if _, before, perr := readRecordFile(root, name+previousSuffix, r.ID); perr == nil {
		generation = before + 1 // of the one that is missing or damaged
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read record before replacing it: %w", err)
	}
	data, err := encodeRecord(r, generation+1)
	if err != nil {
		return err
	}
	return durable.WriteFile(root, name, data)
}

// readRecord reads the record of the object whose directory is open. If the current
// generation is missing or damaged, the one before it counts: what differs is only
// the size, which the caller compares with the image. It is fs.ErrNotExist if there
// is neither.
func readRecord(dir *os.File, id volume.ID) (r record, previous bool, err error) {
	read := func(name string) (record, error) {
		f, err := openAt(dir, name, unix.O_RDONLY)
		if err != nil {
			return record{}, fmt.Errorf("open record of %s: %w", id, err)
		}
		defer f.Close()
		r, _, err := readRecordFrom(f, id)
		return r, err
	}
	name := recordFile(id.Kind())
	r, err = read(name)
	if err == nil {
		return r, false, nil
	}
	old, perr := read(name + previousSuffix)
	switch {
	case perr == nil:
		return old, true, nil
	case errors.Is(err, fs.ErrNotExist):
		err = perr // there is one, although it cannot be read
	}
	return record{}, false, err
}

func readRecordFile(root *os.Root, name string, id volume.ID) (record, uint64, error) {
	f, err := root.Open(name)
	if err != nil {
		return record{}, 0, fmt.Errorf("open record of %s: %w", id, err)
	}
	defer f.Close()
	return readRecordFrom(f, id)
}

func readRecordFrom(f *os.File, id volume.ID) (record, uint64, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return record{}, 0, fmt.Errorf("read record of %s: %w", id, err)
	}
	if len(data) > maxRecord {
		return record{}, 0, fmt.Errorf("%w: record of %s is longer than any record, %d bytes", volume.ErrDataLoss, id, maxRecord)
	}
	return decodeRecord(bytes.TrimSpace(data), id)
}
