package hostile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/test/harness"
)

// TestADriverThatCannotConfineItselfServesNobody hides from the driver of identity
// volumes what it must know to give up its rights.
func TestADriverThatCannotConfineItselfServesNobody(t *testing.T) {
	box := harness.NewBox(t, 0)
	sources := filepath.Join(t.TempDir(), "sources.yaml")
	if err := os.WriteFile(sources, []byte("sources: {token: {token: {audience: vault}}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	box.Flags = []string{"--mode=identity", "--identity-sources=" + sources}
	box.Wrap = []string{"unshare", "--mount", "sh", "-c", `mount --bind /dev/null /proc/sys/kernel/cap_last_cap && exec "$0" "$@"`}
	driver, err := box.TryStart("")
	if err == nil {
		driver.Kill()
		t.Fatal("it serves")
	}
	if text := err.Error(); !strings.Contains(text, "give up the rights that --mode=identity does not need") {
		t.Errorf("it does not say why: %s", text)
	}
}
