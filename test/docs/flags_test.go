package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// buildDriver builds the driver of this tree.
func buildDriver(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "driver")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/driver")
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the driver: %v\n%s", err, out)
	}
	return binary
}

// helpLine matches a flag in what pflag prints: "  -v, --v int   text (default 1)".
var helpLine = regexp.MustCompile(`(?m)^ +(?:-(\w), )?--([a-z-]+)\b.*$`)

var defaultValue = regexp.MustCompile(`\(default "?([^")]*)"?\)$`)

// flagsOf are the flags of a command and their defaults, as --help has them.
func flagsOf(t *testing.T, binary string, command ...string) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, append(command, "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s --help: %v\n%s", strings.Join(command, " "), err, out)
	}
	flags := map[string]string{}
	for _, m := range helpLine.FindAllStringSubmatch(string(out), -1) {
		name := "--" + m[2]
		if m[1] != "" {
			name = "-" + m[1] + ", " + name
		}
		flags[name] = ""
		if d := defaultValue.FindStringSubmatch(strings.TrimSpace(m[0])); d != nil {
			flags[name] = d[1]
		}
	}
	if len(flags) == 0 {
		t.Fatalf("no flag in:\n%s", out)
	}
	return flags
}

func TestFlagsAreDocumented(t *testing.T) {
	binary := buildDriver(t)
	document := readFile(t, "docs/reference/flags.md")
	for _, command := range []string{"serve", "watchdog", "claim-node", "pool init", "pool adopt", "pool import", "pool check", "pool status", "demo"} {
		t.Run(command, func(t *testing.T) {
			want := flagsOf(t, binary, strings.Fields(command)...)
			got := map[string]string{}
			for _, row := range rows(t, section(t, document, "## driver "+command)) {
				got[row[0]] = row[1]
				if row[2] == "" {
					t.Errorf("%s has no meaning", row[0])
				}
			}
			if _, ok := want["--node-id"]; ok {
				want["--node-id"] = "the host's name"
			}
			for _, flag := range []string{"-v, --v", "--sector-size"} {
				if zero, ok := want[flag]; ok && zero == "" {
					want[flag] = "0" // --help does not print a zero
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("flags.md differs from --help (-help +document):\n%s", diff)
			}
		})
	}
}
