package sealed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// RecordName is where the record is: in the root of the volume's own filesystem, which
// no pod sees. So every snapshot and clone has it, of the same instant as the data.
const RecordName = "sealed.json"

// Record is what must outlive everything that the data are to outlive. Nothing in it is
// secret.
type Record struct {
	// KeyID names the key with which the data are encrypted.
	KeyID string `json:"keyId"`
	// Wrapped is that key as the keeper has wrapped it.
	Wrapped string `json:"wrapped"`
}

// ReadRecord reads the record of a filesystem. ok is false if it has none: nothing was
// ever published from it.
func ReadRecord(root *os.Root) (r Record, ok bool, err error) {
	text, err := root.ReadFile(RecordName)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, false, fmt.Errorf("%w: %s: %w", volume.ErrDataLoss, RecordName, err)
	}
	return r, true, nil
}

// Write makes the record durable.
func (r Record) Write(root *os.Root) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return durable.WriteFile(root, RecordName, text)
}
