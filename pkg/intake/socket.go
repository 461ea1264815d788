package intake

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// SocketFile is the socket in the state directory.
const SocketFile = "import.sock"

// maxRequest bounds a request, in bytes.
const maxRequest = 64 << 10

// address names the socket in an open directory: a path could be longer than a
// socket's may be (unix(7): 107 bytes).
func address(dir *os.File) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), SocketFile)}
}

// listen makes the socket, which only its owner may connect to. One that a driver
// which died has left is replaced; one that somebody answers on is volume.ErrInUse.
// Closing the listener removes it.
func listen(stateDir string) (l *net.UnixListener, dir *os.File, err error) {
	dir, err = os.Open(stateDir)
	if err != nil {
		return nil, nil, fmt.Errorf("open the state directory: %w", err)
	}
	fail := func(err error) (*net.UnixListener, *os.File, error) {
		return nil, nil, errors.Join(fmt.Errorf("listen for imports on %s: %w", filepath.Join(stateDir, SocketFile), err), dir.Close())
	}
	if conn, err := net.DialUnix("unix", nil, address(dir)); err == nil {
		conn.Close()
		return fail(fmt.Errorf("%w: another driver answers there", volume.ErrInUse))
	}
	if err := os.Remove(address(dir).Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	l, err = net.ListenUnix("unix", address(dir))
	if err != nil {
		return fail(err)
	}
	if err := os.Chmod(address(dir).Name, 0o600); err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	return l, dir, nil
}

// sendRequest sends a request together with an open file.
func sendRequest(conn *net.UnixConn, req Request, source *os.File) error {
	line, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	line = append(line, '\n')
	n, _, err := conn.WriteMsgUnix(line, unix.UnixRights(int(source.Fd())), nil)
	if err == nil && n < len(line) {
		_, err = conn.Write(line[n:])
	}
	if err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	return nil
}

// receiveRequest reads a request and the file that comes with it, which the caller
// closes.
func receiveRequest(conn *net.UnixConn) (req Request, source *os.File, err error) {
	buf, rights := make([]byte, maxRequest), make([]byte, unix.CmsgSpace(4))
	have := 0
	for have == 0 || buf[have-1] != '\n' {
		if have == len(buf) {
			return req, nil, errors.Join(fmt.Errorf("%w: the request is longer than %d bytes", volume.ErrInvalid, maxRequest), closeFile(source))
		}
		n, rn, _, _, err := conn.ReadMsgUnix(buf[have:], rights)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: the request ends early", volume.ErrInvalid)
		}
		if err == nil && rn > 0 {
			source, err = openRights(rights[:rn], source)
		}
		if err != nil {
			return req, nil, errors.Join(fmt.Errorf("read the request: %w", err), closeFile(source))
		}
		have += n
	}
	if err := json.Unmarshal(buf[:have], &req); err != nil {
		return req, nil, errors.Join(fmt.Errorf("%w: the request: %w", volume.ErrInvalid, err), closeFile(source))
	}
	if source == nil {
		return req, nil, fmt.Errorf("%w: the request came without an open file", volume.ErrInvalid)
	}
	return req, source, nil
}

// openRights is the file in a control message. before is what came earlier: there is
// one at most.
func openRights(rights []byte, before *os.File) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return before, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return before, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), "the source")
			if before != nil {
				return before, errors.Join(fmt.Errorf("%w: more than one open file", volume.ErrInvalid), f.Close())
			}
			before = f
		}
	}
	return before, nil
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// checkPeer refuses all but root.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return fmt.Errorf("ask who is there: %w", cerr)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("%w: only root imports, you are user %d", volume.ErrPrecondition, cred.Uid)
	}
	return nil
}
