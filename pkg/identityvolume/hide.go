package identityvolume

import (
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/credential"
	"github.com/holdfast-csi/holdfast/pkg/secret"
)

// minSecret is the length in bytes of the shortest secret that is looked for in an
// error: a shorter one is part of ordinary words.
const minSecret = 5

// hidden is an error without the secrets that were in its text.
type hidden struct {
	error
	text string
}

func (h hidden) Error() string { return h.text }
func (h hidden) Unwrap() error { return h.error }

// hide takes out of an error what the volume has or has just read. Package credential
// leaves plain words in what a service says, and a password may be one.
func (h *held) hide(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, known := range h.secrets() {
		text = strings.ReplaceAll(text, known, secret.Mark)
	}
	if text == err.Error() {
		return err
	}
	return hidden{err, text}
}

// secrets are the lines of everything that the volume has, the longest first: one may
// be a part of another.
func (h *held) secrets() []string {
	var lines []string
	for _, all := range []map[string]credential.Credential{h.have, h.fresh} {
		for c := range maps.Values(all) {
			for value := range maps.Values(c.Fields) {
				for line := range strings.Lines(value.Reveal()) {
					if line = strings.TrimSpace(line); len(line) >= minSecret {
						lines = append(lines, line)
					}
				}
			}
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return len(b) - len(a) })
	return lines
}
