package main

import (
	"fmt"
	"os"
	"strings"
)

// writeNotice writes the licence texts of all modules to a file. The same modules
// make the same file.
func writeNotice(path string, modules []module) error {
	var b strings.Builder
	b.WriteString("Holdfast is licensed under the Apache License 2.0. Its driver has code of these\nmodules in it, under their own licences, the texts of which follow.\n\n")
	for _, m := range modules {
		fmt.Fprintf(&b, "  %s %s: %s\n", m.Path, m.Version, m.licences())
	}
	for _, m := range modules {
		for _, t := range m.texts {
			ruler := strings.Repeat("-", 80)
			fmt.Fprintf(&b, "\n%s\n%s %s, %s\n%s\n\n%s\n", ruler, m.Path, m.Version, t.name, ruler, strings.TrimSpace(t.content))
		}
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
