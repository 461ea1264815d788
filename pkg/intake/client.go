package intake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Ask asks the driver with this state directory for an import, and waits for it.
// progress, which may be nil, is told now and then how far it is. When ctx ends the
// import is broken off. It is volume.ErrUnavailable if no driver answers; what the
// driver answers has no sentinel.
func Ask(ctx context.Context, stateDir string, req Request, source *os.File, progress func(Progress)) (Result, error) {
	path := filepath.Join(stateDir, SocketFile)
	dir, err := os.Open(stateDir)
	if err != nil {
		return Result{}, fmt.Errorf("open the state directory: %w", err)
	}
	defer dir.Close()
	conn, err := net.DialUnix("unix", nil, address(dir))
	if err != nil {
		return Result{}, fmt.Errorf("%w: no driver answers on %s (--state-dir); an import needs the driver that runs: %w", volume.ErrUnavailable, path, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := sendRequest(conn, req, source); err != nil {
		return Result{}, err
	}
	answers := json.NewDecoder(conn)
	for {
		var a answer
		if err := answers.Decode(&a); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return Result{}, fmt.Errorf("%w: the driver on %s went away before it answered; the same command again finds what was imported, or imports it: %w", volume.ErrUnavailable, path, err)
		}
		switch {
		case a.Error != "":
			return Result{}, errors.New(a.Error)
		case a.Result != nil:
			return *a.Result, nil
		case a.Progress != nil && progress != nil:
			progress(*a.Progress)
		}
	}
}
