package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are the licences under which code may be in the driver, by the names of
// spdx.org. All of them let it be passed on under Apache-2.0 as long as their texts
// go with it.
func allowed() []string {
	return []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}
}

func allowedList() string { return strings.Join(allowed(), ", ") }

// enough is how much of a licence file, in percent, must be text of a licence that
// is known. The rest is copyright lines and titles.
const enough = 75

// text is a file that must go with the program.
type text struct {
	name     string // inside its module
	content  string
	licences []string // empty for a notice
}

// read reads the licences of a module, and judges them.
func (m *module) read() error {
	files, err := m.files()
	if err != nil {
		return fmt.Errorf("look for the licence of %s: %w", m.Path, err)
	}
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the licence of %s: %w", m.Path, err)
		}
		name, err := filepath.Rel(m.Dir, path)
		if err != nil {
			return err
		}
		t := text{name: name, content: string(content)}
		if !companion.MatchString(filepath.Base(path)) {
			if t.licences, err = recognise(content); err != nil {
				return fmt.Errorf("%s %s, %s: %w", m.Path, m.Version, name, err)
			}
		}
		m.texts = append(m.texts, t)
	}
	if m.licences() == "" {
		return fmt.Errorf("%s %s has no licence file in %s: nobody may pass it on", m.Path, m.Version, m.Dir)
	}
	return nil
}

// companion is how files are called that go with a licence and are none.
var companion = regexp.MustCompile(`(?i)^(notice|patents)`)

// recognise are the licences of a text, or an error if one of them is not allowed
// or too little of it is a licence.
func recognise(content []byte) ([]string, error) {
	cover := licensecheck.Scan(content)
	if cover.Percent < enough {
		return nil, fmt.Errorf("only %.0f %% of it are the text of a licence that is known, want %d", cover.Percent, enough)
	}
	var ids []string
	for _, match := range cover.Match {
		if match.IsURL {
			continue
		}
		if !slices.Contains(allowed(), match.ID) {
			return nil, fmt.Errorf("its licence %s is not one of %s", match.ID, allowedList())
		}
		if !slices.Contains(ids, match.ID) {
			ids = append(ids, match.ID)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("it refers to a licence and is none")
	}
	return ids, nil
}

// licences are the licences of a module in words.
func (m module) licences() string {
	var ids []string
	for _, t := range m.texts {
		for _, id := range t.licences {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, ", ")
}
