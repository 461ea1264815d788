package command

import (
	"fmt"
	"strings"
)

// Error is a program that did not do what it was asked to.
type Error struct {
	// Argv is what was run.
	Argv []string
	// ExitCode is the exit status, or -1 if the program was not started, was
	// killed by a signal, or has not ended yet.
	ExitCode int
	// Stderr is the end of what it printed to its standard error, at most
	// maxStderr bytes.
	Stderr string
	// Err is the cause: an *exec.ExitError, the error of the context, or what
	// kept the program from starting.
	Err error
}

// Error names the program and its arguments, how it ended and what it printed.
func (e *Error) Error() string {
	text := fmt.Sprintf("run %s: %v", strings.Join(e.Argv, " "), e.Err)
	if s := strings.TrimSpace(e.Stderr); s != "" {
		text += ": " + strings.ReplaceAll(s, "\n", "; ")
	}
	return text
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }
