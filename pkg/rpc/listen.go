package rpc

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// maxSocketPath is what fits in sockaddr_un.sun_path with its NUL (unix(7)).
const maxSocketPath = 107

// ParseEndpoint reads an endpoint such as unix:///csi/csi.sock and returns the
// path of the socket: absolute and ending in .sock (CSI spec, Environment).
// Anything else is ErrInvalid.
func ParseEndpoint(endpoint string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("%w: endpoint %q %s: want something like unix:///csi/csi.sock", volume.ErrInvalid, endpoint, why)
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return refuse("is not a URL")
	case u.Scheme == "tcp":
		return refuse("is a network address, and CSI has no authentication")
	case u.Scheme != "unix":
		return refuse("has no scheme unix://")
	case u.Host != "" || !filepath.IsAbs(u.Path):
		return refuse("has no absolute path")
	case u.RawQuery != "" || u.Fragment != "":
		return refuse("has more than a path")
	case !strings.HasSuffix(u.Path, ".sock"):
		return refuse("does not end in .sock")
	case len(u.Path) > maxSocketPath:
		return refuse(fmt.Sprintf("has a path of %d bytes, the kernel allows %d", len(u.Path), maxSocketPath))
	}
	return filepath.Clean(u.Path), nil
}

// listen makes the socket, which only its owner may connect to. A socket that a
// crash left behind is replaced, which takes proof that nobody answers on it;
// one that somebody answers on is ErrInUse. Closing the listener removes the
// socket.
func listen(path string) (net.Listener, error) {
	// Two drivers that start at once must not both find the socket dead. The lock
	// is on the directory, since nothing may be created beside the socket.
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("lock the directory of socket %s: %w", path, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict socket %s to its owner: %w", path, err), l.Close())
	}
	return l, nil
}

func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing is what unlocks
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: %s exists and is no socket: it was not touched; remove it or choose another endpoint", volume.ErrExists, path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("%w: another process answers on socket %s: stop it or choose another endpoint", volume.ErrInUse, path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: cannot tell whether socket %s is in use, it was not touched: %w", volume.ErrInUse, path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the socket %s that nobody answers on: %w", path, err)
	}
	return nil
}
