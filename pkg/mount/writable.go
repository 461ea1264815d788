package mount

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Writable makes a second view of what is mounted at target, attached nowhere, through
// which files can be changed although the mount at target is read-only: a pod sees
// what its owner changes, and can change nothing. A filesystem that is itself
// read-only stays so.
func Writable(target *Target) (*Tree, error) {
	t, err := Bind(target.File(), false)
	if err != nil {
		return nil, err
	}
	if err := t.setAttr(&unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		t.Close()
		return nil, fmt.Errorf("make a view that can be written to: %w", err)
	}
	return t, nil
}
