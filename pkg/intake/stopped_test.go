package intake

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// A client that was stopped does not keep the import, with its locks, for ever.
func TestWhoDoesNotListenEndsTheImport(t *testing.T) {
	l, dir, err := listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	defer l.Close()
	dialRaw(t, dir.Name()) // and never reads
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended := make(chan error, 2)
	w := &writer{conn: conn, enc: json.NewEncoder(conn), stop: func(err error) { ended <- err }}
	go w.send(answer{Error: strings.Repeat("more than a socket holds ", 1<<18)})
	select {
	case err := <-ended:
		if !strings.Contains(err.Error(), "does not listen") {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(stopWait + listenPatience):
		t.Error("it waits")
	}
}
