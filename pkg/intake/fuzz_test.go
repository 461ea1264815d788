package intake

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzReceiveRequest: whatever comes, with whatever number of open files, there is a
// request with one open file, or an error and no open file that stays.
func FuzzReceiveRequest(f *testing.F) {
	f.Add([]byte("{\"name\":\"a\",\"size\":5}\n"), byte(1))
	f.Add([]byte("{\"name\":\"a\"}\n"), byte(0))
	f.Add([]byte("{\"name\":\"a\"}\n"), byte(2))
	f.Add([]byte("{\"size\":\"much\"}\n"), byte(1))
	f.Add([]byte("no end"), byte(1))
	f.Fuzz(func(t *testing.T, line []byte, files byte) {
		if len(line) == 0 || len(line) > 2*maxRequest {
			t.Skip("nothing carries the files, or more than a socket holds")
		}
		before := openFiles(t)
		ours, theirs := connected(t)
		var fds []int
		for range files % 4 {
			fds = append(fds, int(os.Stdin.Fd()))
		}
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		go func() {
			// The other side may hang up early.
			_, _, _ = theirs.WriteMsgUnix(line, rights, nil)
			_ = theirs.CloseWrite()
		}()
		req, source, err := receiveRequest(ours)
		if (err == nil) != (source != nil) {
			t.Errorf("%+v, an open file: %t, %v", req, source != nil, err)
		}
		if err == nil && files%4 != 1 {
			t.Errorf("it came with %d open files", files%4)
		}
		if err := closeFile(source); err != nil {
			t.Error(err)
		}
		ours.Close()
		theirs.Close()
		if after := openFiles(t); after > before {
			t.Errorf("%d files were open before, %d are now", before, after)
		}
	})
}

// connected are the two ends of a connection.
func connected(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
