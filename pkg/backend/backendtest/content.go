package backendtest

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Content writes and reads the bytes of raw block volumes, as a pod would. What
// WriteAt wrote is closed but not synced when it returns.
type Content interface {
	WriteAt(ctx context.Context, id volume.ID, p []byte, off int64) error
	ReadAt(ctx context.Context, id volume.ID, p []byte, off int64) error
}

// DeviceContent reaches the bytes of block volumes through the devices that an
// Attacher makes. It leaves them attached.
func DeviceContent(a backend.Attacher) Content { return deviceContent{a} }

type deviceContent struct{ attacher backend.Attacher }

func (c deviceContent) WriteAt(ctx context.Context, id volume.ID, p []byte, off int64) error {
	return c.open(ctx, id, os.O_WRONLY, func(f *os.File) error {
		_, err := f.WriteAt(p, off)
		return err
	})
}

func (c deviceContent) ReadAt(ctx context.Context, id volume.ID, p []byte, off int64) error {
	return c.open(ctx, id, os.O_RDONLY, func(f *os.File) error {
		_, err := f.ReadAt(p, off)
		return err
	})
}

func (c deviceContent) open(ctx context.Context, id volume.ID, flag int, do func(*os.File) error) error {
	dev, err := c.attacher.Attach(ctx, id)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(dev.Path, flag, 0)
	if err != nil {
		return errors.Join(fmt.Errorf("open the device of %s: %w", id, err), dev.Close())
	}
	return errors.Join(do(f), f.Close(), dev.Close())
}
