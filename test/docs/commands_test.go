package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var shellBlock = regexp.MustCompile("(?ms)^ *```(?:sh|bash)\n(.*?)^ *```$")

// commandsOf are the lines that a document tells its reader to type, by file;
// what a here-document has in it is left out.
func commandsOf(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, file := range files(t, ".md") {
		for _, m := range shellBlock.FindAllStringSubmatch(readFile(t, file), -1) {
			end := ""
			for line := range strings.Lines(m[1]) {
				line = strings.TrimSpace(line)
				if end != "" {
					if line == end {
						end = ""
					}
					continue
				}
				if _, word, ok := strings.Cut(line, "<<"); ok {
					word, _, _ = strings.Cut(strings.TrimSpace(word), " ") // what reads its output may follow
					end = strings.Trim(word, "'\"")
				}
				line, _, _ = strings.Cut(line, " # ")
				if line != "" && !strings.HasPrefix(line, "#") {
					found[file] = append(found[file], line)
				}
			}
		}
	}
	if len(found) < 8 {
		t.Fatalf("only %d documents have commands", len(found))
	}
	return found
}

// driverCommand is the driver's command line in one that runs it.
var driverCommand = regexp.MustCompile(`(?:^|/)driver ((?:pool )?[a-z-]+)((?: [^|;&]*)?)`)

func TestTheDriverKnowsTheCommandsOfTheDocuments(t *testing.T) {
	reference := readFile(t, "docs/reference/flags.md")
	tried := 0
	for file, lines := range commandsOf(t) {
		for _, line := range lines {
			m := driverCommand.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			tried++
			if m[1] == "version" {
				continue
			}
			var flags []string
			for _, row := range rows(t, section(t, reference, "## driver "+m[1])) {
				for flag := range strings.SplitSeq(row[0], ", ") {
					flags = append(flags, flag)
				}
			}
			for word := range strings.FieldsSeq(m[2]) {
				flag, _, _ := strings.Cut(word, "=")
				if strings.HasPrefix(word, "-") && !slices.Contains(flags, flag) {
					t.Errorf("%s: driver %s has no flag %s: %s", file, m[1], flag, line)
				}
			}
		}
	}
	if tried < 10 {
		t.Errorf("only %d commands of the driver were found", tried)
	}
}

var makeTarget = regexp.MustCompile(`(?:^|&& )make ([a-z][a-z0-9. -]*[a-z0-9])`)

func TestTheTargetsOfTheDocumentsExist(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9.-]+):`).FindAllStringSubmatch(readFile(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	tried := 0
	for _, file := range files(t, ".md") {
		if file == "CHANGELOG.md" {
			continue // old versions had what they had
		}
		var said []string
		for _, m := range regexp.MustCompile("`make ([a-z][a-z0-9. -]*[a-z0-9])").FindAllStringSubmatch(readFile(t, file), -1) {
			said = append(said, m[1])
		}
		for _, line := range commandsOf(t)[file] {
			if m := makeTarget.FindStringSubmatch(line); m != nil {
				said = append(said, m[1])
			}
		}
		for _, words := range said {
			for target := range strings.FieldsSeq(words) {
				tried++
				if !targets[target] {
					t.Errorf("%s: there is no make %s", file, target)
				}
			}
		}
	}
	if tried < 20 {
		t.Errorf("only %d targets were found", tried)
	}
}

// shown are paths of this tree in a command.
var shown = regexp.MustCompile(`(?:^|[\s=])((?:deploy|hack|docs|test)/[A-Za-z0-9_./-]*[A-Za-z0-9_-])`)

func TestThePathsInCommandsExist(t *testing.T) {
	tried := 0
	for file, lines := range commandsOf(t) {
		for _, line := range lines {
			for _, m := range shown.FindAllStringSubmatch(line, -1) {
				tried++
				if _, err := os.Stat(filepath.Join(repository, m[1])); err != nil && m[1] != "deploy/kustomize/overlays/mine" {
					t.Errorf("%s: %s: %v", file, line, err)
				}
			}
		}
	}
	if tried < 10 {
		t.Errorf("only %d paths were found", tried)
	}
}
