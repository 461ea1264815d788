package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/durable"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// overcommitFile of the state directory has what the driver was told, for those
// who look at its pools beside it.
const overcommitFile = "overcommit"

func writeOvercommit(state *os.Root, k float64) error {
	if had, err := readOvercommit(state); err == nil && had == k {
		return nil
	}
	return durable.WriteFile(state, overcommitFile, []byte(strconv.FormatFloat(k, 'g', -1, 64)+"\n"))
}

// readOvercommit is 1 if no driver was ever started.
func readOvercommit(state *os.Root) (float64, error) {
	text, err := state.ReadFile(overcommitFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read what the driver may overcommit: %w", err)
	}
	k, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil {
		return 0, fmt.Errorf("%w: the file %s in the state directory is not readable: %w; the next start of the driver writes it anew", volume.ErrPrecondition, overcommitFile, err)
	}
	return k, nil
}
