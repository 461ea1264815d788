package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// sight is what a pod has seen of its credentials.
type sight struct {
	// Looks is how often it looked, and Mount the line of mountinfo of the directory,
	// which was the same each time.
	Looks int    `json:"looks"`
	Mount string `json:"mount"`
	// Contents are those of the file that is watched, in the order in which they came.
	Contents []string `json:"contents,omitempty"`
	// Serials are those of the certificates, in the order in which they came. Ends is
	// when the last one ends, and Left the least time that any had left when it was
	// used.
	Serials []string      `json:"serials,omitempty"`
	Ends    time.Time     `json:"ends"`
	Left    time.Duration `json:"left"`
	// Again is how often a pair had to be taken once more, because another one took its
	// place between two opens, and Handshakes how many connections were made with one.
	Again      int `json:"again"`
	Handshakes int `json:"handshakes"`
}

// observe looks again and again until it is asked to end, and tells everybody who asks
// what it has seen. It ends at the first look that fails.
func observe(dir string, pause time.Duration, look func(*sight) error) error {
	mounted, err := mountOf(dir)
	if err != nil {
		return err
	}
	questions, err := net.Listen("unix", address)
	if err != nil {
		return fmt.Errorf("answer questions: %w", err)
	}
	asked := make(chan net.Conn)
	go accept(questions, asked)
	end, tick := ended(), time.NewTicker(pause)
	defer tick.Stop()
	now := sight{Mount: mounted}
	for {
		select {
		case <-end:
			return nil
		case conn := <-asked:
			err = answer(conn, now)
		case <-tick.C:
			now.Looks++
			var is string
			if is, err = mountOf(dir); err == nil && is != mounted {
				err = fmt.Errorf("the mount at %s was %q and is %q", dir, mounted, is)
			}
			err = errors.Join(err, look(&now))
		}
		if err != nil {
			return fmt.Errorf("after %d looks at %s: %w", now.Looks, dir, err)
		}
	}
}

// mountOf is the line of mountinfo of what is mounted at a directory.
func mountOf(dir string) (string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == dir {
			return strings.TrimSpace(line), nil
		}
	}
	return "", fmt.Errorf("nothing is mounted at %s", dir)
}

// watch opens a file once and again at each look. What was open from the beginning has
// to stay what it was.
func watch(path string) error {
	open, err := os.Open(path)
	if err != nil {
		return err
	}
	defer open.Close()
	var first []byte
	return observe(filepath.Dir(path), 100*time.Millisecond, func(now *sight) error {
		at := make([]byte, 1<<20)
		n, _ := open.ReadAt(at, 0)
		if now.Looks == 1 {
			first = at[:n]
		}
		if !bytes.Equal(at[:n], first) {
			return fmt.Errorf("%s was opened with %q, and now that has %q", path, first, at[:n])
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // it was on its way through ..data
			now.Again++
			text, err = os.ReadFile(path)
		}
		if err != nil {
			return err
		}
		if len(now.Contents) == 0 || now.Contents[len(now.Contents)-1] != string(text) {
			now.Contents = append(now.Contents, string(text))
		}
		return nil
	})
}

// pairs loads a certificate and its key, tls.crt and tls.key, over and over, in both
// ways that the guide names, and uses every tenth pair for a connection, whose client
// believes ca.crt.
func pairs(dir string) error {
	return observe(dir, 10*time.Millisecond, func(now *sight) error {
		pair, authority, err := loadThrough(filepath.Join(dir, "..data"))
		if errors.Is(err, fs.ErrNotExist) {
			now.Again++
			pair, authority, err = loadThrough(filepath.Join(dir, "..data"))
		}
		if err != nil {
			return fmt.Errorf("by one opened ..data: %w", err)
		}
		if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")); err != nil {
			now.Again++
			if _, again := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")); again != nil {
				return fmt.Errorf("by their names, twice: %w", errors.Join(err, again))
			}
		}
		leaf := pair.Leaf
		left := time.Until(leaf.NotAfter)
		if left <= 0 {
			return fmt.Errorf("the certificate %s has ended at %s", leaf.SerialNumber, leaf.NotAfter)
		}
		if now.Looks == 1 || left < now.Left {
			now.Left = left
		}
		if serial := leaf.SerialNumber.String(); len(now.Serials) == 0 || now.Serials[len(now.Serials)-1] != serial {
			now.Serials, now.Ends = append(now.Serials, serial), leaf.NotAfter
		}
		if now.Looks%10 != 1 {
			return nil
		}
		now.Handshakes++
		return connect(pair, authority)
	})
}

// loadThrough loads a pair, and the authority beside it, from one directory: what takes
// its place meanwhile can take files away, and mix none.
func loadThrough(dir string) (tls.Certificate, []byte, error) {
	opened, err := os.OpenRoot(dir)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	defer opened.Close()
	var texts [3][]byte
	for i, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		if texts[i], err = opened.ReadFile(name); err != nil {
			return tls.Certificate{}, nil, err
		}
	}
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	return pair, texts[2], err
}

// connect makes a TLS connection between a server that has the pair and a client that
// believes the authority.
func connect(pair tls.Certificate, authority []byte) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return errors.New("ca.crt has no certificate")
	}
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	deadline := time.Now().Add(10 * time.Second)
	if err := errors.Join(here.SetDeadline(deadline), there.SetDeadline(deadline)); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- tls.Server(here, &tls.Config{Certificates: []tls.Certificate{pair}}).Handshake() }()
	asked := tls.Client(there, &tls.Config{RootCAs: roots, ServerName: pair.Leaf.DNSNames[0]}).Handshake()
	return errors.Join(asked, <-served)
}

// await waits until a file has a text, and ends then.
func await(path, want string) error {
	end := ended()
	for {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if string(text) == want {
			return json.NewEncoder(os.Stdout).Encode(map[string]time.Time{"seen": time.Now()})
		}
		select {
		case <-end:
			return fmt.Errorf("%s has %q, and not %q", path, text, want)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
