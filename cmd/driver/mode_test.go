package main

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

func TestANameAndAModeThatContradictAreRefused(t *testing.T) {
	err := runServe(t.Context(), []string{"--driver-name=" + identityDriverName, "--mode=all", "--node-id=n"}, io.Discard)
	if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "--mode=all is given") {
		t.Errorf("got %v", err)
	}
	// The name alone is the mode.
	err = runServe(t.Context(), []string{"--driver-name=" + identityDriverName, "--node-id=n"}, io.Discard)
	if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "needs --identity-sources") {
		t.Errorf("got %v", err)
	}
}
