package main

import (
	"fmt"
	"os"
	"regexp"

	"sigs.k8s.io/yaml"
)

// causesFile says why tests fail or are skipped.
const causesFile = "test/e2e/external/causes.yaml"

// cause is why some tests do not pass. Match is a regular expression on a failed
// test's name, or on the reason that a skipped one gives.
type cause struct {
	Match string `json:"match"`
	Cause string `json:"cause"`

	match *regexp.Regexp
}

// causes are looked through in order; the first that matches holds.
type causes struct {
	Failures []cause `json:"failures"`
	Skips    []cause `json:"skips"`
}

func readCauses(file string) (causes, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return causes{}, err
	}
	var c causes
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return causes{}, fmt.Errorf("read %s: %w", file, err)
	}
	for _, list := range [][]cause{c.Failures, c.Skips} {
		for i := range list {
			if list[i].match, err = regexp.Compile(list[i].Match); err != nil {
				return causes{}, fmt.Errorf("read %s: %w", file, err)
			}
			if list[i].Cause == "" {
				return causes{}, fmt.Errorf("%s: %s has no cause", file, list[i].Match)
			}
		}
	}
	return c, nil
}

// find is the cause whose expression matches text, not ok if there is none.
func find(list []cause, text string) (string, bool) {
	for _, c := range list {
		if c.match.MatchString(text) {
			return c.Cause, true
		}
	}
	return "", false
}
