//go:build failpoint

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/fault"
)

// failpoints is for binaries built to be crashed. HOLDFAST_FAILPOINT is
// STEP[:N]=kill (the process dies by SIGKILL the Nth time it gets there) or
// STEP[:N]=sleep:DURATION. Every step taken is printed, so that a test can learn
// their names.
func failpoints() fault.Hook {
	point, action, ok := strings.Cut(os.Getenv("HOLDFAST_FAILPOINT"), "=")
	step, nth, _ := strings.Cut(point, ":")
	want, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		want = 1
	}
	var seen atomic.Int64
	return func(s string) error {
		fmt.Fprintln(os.Stderr, "failpoint", s)
		if !ok || s != step || seen.Add(1) != want {
			return nil
		}
		if d, isSleep := strings.CutPrefix(action, "sleep:"); isSleep {
			pause, err := time.ParseDuration(d)
			if err != nil {
				return err
			}
			time.Sleep(pause)
			return nil
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		select {} // the signal is on its way
	}
}
