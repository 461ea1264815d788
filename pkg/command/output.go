package command

import "sync"

// head keeps the first max bytes written to it. A program that was given up may
// still write while the caller reads, hence the lock.
type head struct {
	max int

	mu   sync.Mutex
	buf  []byte
	over bool
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := min(len(p), h.max-len(h.buf))
	h.buf = append(h.buf, p[:room]...)
	h.over = h.over || room < len(p)
	return len(p), nil
}

func (h *head) bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]byte(nil), h.buf...)
}

func (h *head) overflowed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over
}

// tail keeps the last max bytes written to it: the end of what a program said is
// where it says why it gave up.
type tail struct {
	max int

	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if drop := len(t.buf) - t.max; drop > 0 {
		t.buf = append(t.buf[:0], t.buf[drop:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
