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

func TestIdentityModeRefusesWhatMeansNothingThere(t *testing.T) {
	for flag, says := range map[string]string{
		"--pool=/x":                    "leave --pool out",
		"--pool-size=1Gi":              "leave --pool-size out",
		"--overcommit=2":               "leave --overcommit out",
		"--driver-name=" + driverName:  "is that of --mode=all",
		"--identity-sources=/no/where": "make the ConfigMap holdfast-identity-sources",
	} {
		err := runServe(t.Context(), []string{"--mode=identity", "--node-id=n", flag}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", flag, err)
		}
	}
}
