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

// killedStatus is the exit status that a shell, and a container's runtime, show
// for a process that died by SIGKILL.
const killedStatus = 128 + uintptr(syscall.SIGKILL)

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
		// The first process of a container cannot be killed from inside
		// (pid_namespaces(7)). It ends all the same, with nothing deferred.
		_, _, err := syscall.RawSyscall(syscall.SYS_EXIT_GROUP, killedStatus, 0, 0)
		return err
	}
}
