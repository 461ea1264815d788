//go:build !failpoint

package main

import "github.com/holdfast-csi/holdfast/pkg/fault"

// failpoints injects nothing: a released binary cannot be told to fail.
func failpoints() fault.Hook { return nil }
