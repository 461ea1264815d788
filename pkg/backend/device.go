package backend

import (
	"io"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Device is a volume's block device on this machine. It is open until Close.
type Device struct {
	// Path is the device node, such as /dev/loop7.
	Path string
	// Major and Minor are the device number, as mountinfo shows it.
	Major, Minor uint32
	// Size of the device in bytes when it was attached or looked up.
	Size volume.Bytes
	// Hold keeps the device open; Close closes it. It may be nil.
	Hold io.Closer
}

// Close lets go of the device, which does not detach it.
func (d *Device) Close() error {
	if d.Hold == nil {
		return nil
	}
	return d.Hold.Close()
}
