package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync/atomic"

	"github.com/holdfast-csi/holdfast/pkg/mount"
)

// readiness is whether the driver can be used.
type readiness struct {
	started atomic.Bool
	// unfit is why it never can be, where it runs now. It is set before anything is
	// served.
	unfit error
}

var errStarting = errors.New("the driver is starting: its pools are being opened")

// err says why the driver cannot be used, nil if it can.
func (r *readiness) err() error {
	switch {
	case r.unfit != nil:
		return r.unfit
	case !r.started.Load():
		return errStarting
	}
	return nil
}

func (r *readiness) ok() bool { return r.err() == nil }

// gate says why nothing can be served. While the pools are being opened calls are
// served: they wait, or are told which pool is away.
func (r *readiness) gate() error { return r.unfit }

// checkShared says why the host would not see what the driver mounts: for each
// directory that the driver mounts below, it must be on a mount that is shared.
// That is what mountPropagation: Bidirectional makes of a hostPath volume.
//
// It cannot see whether the host is in the mount's peer group: a runtime that
// shared the mount with nobody would go unnoticed (mount.Info.Propagation). No
// runtime that was looked at does; runc leaves a mount without Bidirectional
// private or a slave, and so the root of the container.
func checkShared(o options) error {
	type place struct{ flag, dir string }
	places := []place{{"--kubelet-dir", o.kubeletDir}}
	for _, p := range o.pools.dirs {
		_, dir := splitName(p)
		places = append(places, place{"--pool", dir})
	}
	var errs []error
	for _, p := range places {
		if err := checkSharedDir(p.dir); err != nil {
			errs = append(errs, fmt.Errorf("%s=%s: %w", p.flag, p.dir, err))
		}
	}
	return errors.Join(errs...)
}

func checkSharedDir(dir string) error {
	on, err := containing(dir)
	switch {
	case err != nil:
		return err
	case on.Path == "/":
		return fmt.Errorf("no volume of the pod is mounted there, so it would go with the container; mount a hostPath volume there, with mountPropagation: Bidirectional, in a privileged container")
	case on.PeerGroup == 0:
		return fmt.Errorf("the mount at %s is %s, so the host and other pods would not see what the driver mounts below it; give the volumeMount with mountPath: %s mountPropagation: Bidirectional, in a privileged container", on.Path, on.Propagation(), on.Path)
	}
	return nil
}

// containing is the mount that a directory is on, or will be: a pool image's
// directory is made when it is first used.
func containing(dir string) (mount.Info, error) {
	for {
		on, err := mount.Containing(dir)
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return on, err
		}
		dir = filepath.Dir(dir)
	}
}
