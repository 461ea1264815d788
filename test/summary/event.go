package main

import (
	"encoding/json"
	"strings"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action      string
	Package     string
	Test        string
	ImportPath  string // of build-output and build-fail
	FailedBuild string // of the fail of a package that did not build
	Output      string
	Elapsed     float64 // seconds
}

// parseEvent is not ok for a line that is not an event.
func parseEvent(line []byte) (e event, ok bool) {
	if len(line) == 0 || line[0] != '{' {
		return event{}, false
	}
	err := json.Unmarshal(line, &e)
	return e, err == nil && e.Action != ""
}

// marker is a line that a script wrote between two runs.
type marker struct{ verb, text string }

func parseMarker(line string) (marker, bool) {
	rest, ok := strings.CutPrefix(line, "summary: ")
	if !ok {
		return marker{}, false
	}
	verb, text, _ := strings.Cut(rest, " ")
	switch verb {
	case "pass", "skip", "exit", "again":
		return marker{verb, text}, true
	}
	return marker{}, false
}

// isFrame reports whether a line of output only says what the events say, too.
func isFrame(e event) bool {
	s := strings.TrimLeft(e.Output, " ")
	frames := []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME", "--- PASS", "--- FAIL", "--- SKIP"}
	if e.Test == "" {
		frames = append(frames, "PASS\n", "FAIL\n", "FAIL\t", "ok  \t")
	}
	for _, prefix := range frames {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}
