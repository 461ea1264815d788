package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
)

// Run runs another command of the driver in the box, such as "pool", "status",
// and returns what it printed. What it printed as an error is in the error.
func (b *Box) Run(args ...string) (string, error) {
	b.t.Helper()
	binary, err := build()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("driver %s: %w: %s", args, err, errOut.String())
	}
	return out.String(), nil
}
