package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/pkg/intake"
	"github.com/holdfast-csi/holdfast/pkg/orchestrator"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// importOf is driver pool import of a directory with a file, or of an image.
func importOf(name string, claim func(string) orchestrator.Claim) operation {
	var source, file string
	return operation{
		name: name,
		setUp: func(_ context.Context, s *subject) error {
			s.claim = claim(s.name)
			source = s.t.TempDir()
			file = filepath.Join(source, "data")
			if s.claim.Block {
				source = file
			}
			return workload.Write(file, seed, dataSize, true)
		},
		call: func(_ context.Context, s *subject) error {
			out, err := s.box.Run("pool", "import", "--state-dir="+s.box.State(), "--name="+s.name, "--output=json", source)
			if err != nil {
				return err
			}
			var made intake.Result
			if err := json.Unmarshal([]byte(out), &made); err != nil {
				return fmt.Errorf("read what was printed: %w", err)
			}
			s.id = string(made.ID)
			return nil
		},
		check: func(ctx context.Context, s *subject) error {
			if err := s.verify(ctx, s.id, pod, s.claim); err != nil {
				return err
			}
			return workload.Verify(file, seed, dataSize) // the source is as it was
		},
		tearDown: func(ctx context.Context, s *subject) error { return s.remove(ctx, s.id, pod, s.claim) },
	}
}
