package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// recording is what a program wrote to its terminal.
type recording struct {
	Title         string
	Columns, Rows int
	Began         time.Time
	Events        []event
}

// event is one read from the terminal.
type event struct {
	After time.Duration // since the program began
	Text  string
}

// openTerminal makes a pseudo terminal (pts(4)): the side that is read, and the one
// that a program is given.
func openTerminal(columns, rows int) (reader, terminal *os.File, err error) {
	reader, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(reader.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: uint16(rows)})
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, reader.Close())
	}
	return reader, terminal, nil
}

// record runs a program and shows on show what it writes.
func (r *recording) record(ctx context.Context, show io.Writer, argv []string) error {
	reader, terminal, err := openTerminal(r.Columns, r.Rows)
	if err != nil {
		return fmt.Errorf("make a terminal: %w", err)
	}
	defer reader.Close()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	r.Began = time.Now()
	if err := cmd.Start(); err != nil {
		return errors.Join(err, terminal.Close())
	}
	if err := terminal.Close(); err != nil {
		return err
	}
	for buffer := make([]byte, 64<<10); ; {
		n, err := reader.Read(buffer)
		if n > 0 {
			r.Events = append(r.Events, event{After: time.Since(r.Began), Text: string(buffer[:n])})
			if _, err := show.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err != nil { // EIO: nobody has the other side any more (pts(4))
			break
		}
	}
	return cmd.Wait()
}

// asciicast is the recording in the format of asciinema, version 2.
func (r *recording) asciicast() ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	header := map[string]any{
		"version": 2, "width": r.Columns, "height": r.Rows, "timestamp": r.Began.Unix(), "title": r.Title,
		"env": map[string]string{"TERM": "xterm-256color"},
	}
	if err := e.Encode(header); err != nil {
		return nil, err
	}
	for _, ev := range r.Events {
		if err := e.Encode([]any{float64(ev.After.Microseconds()) / 1e6, "o", ev.Text}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
