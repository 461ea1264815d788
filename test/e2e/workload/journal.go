package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/pkg/workload"
)

// address is where the journal of a pod answers. It is abstract, so it needs no
// file, and belongs to the network namespace, so each pod has its own.
const address = "@holdfast-journal"

// state is what a journal says about itself.
type state struct {
	File    string        `json:"file"`
	Records uint64        `json:"records"` // that are durable
	Stall   time.Duration `json:"stall"`   // longest time between two of them since the last question
	Longest time.Duration `json:"longest"` // and ever
}

// journal writes until it is asked to end, or until an I/O error.
func journal(args []string) error {
	flags := flag.NewFlagSet("journal", flag.ContinueOnError)
	pause := flags.Duration("pause", 20*time.Millisecond, "the pause after each record")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("journal needs one directory or device, and was given %d", flags.NArg())
	}
	writer, path, err := startNext(flags.Arg(0), *pause)
	if err != nil {
		return err
	}
	questions, err := net.Listen("unix", address)
	if err != nil {
		return errors.Join(fmt.Errorf("answer questions: %w", err), stop(writer))
	}
	asked := make(chan net.Conn)
	go accept(questions, asked)
	end, tick := ended(), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	now := state{File: path}
	for {
		select {
		case <-end:
			err := stop(writer)
			fmt.Printf("%s: %d records, longest gap %s\n", now.File, now.Records, max(now.Longest, writer.Stall()))
			return err
		case conn := <-asked:
			stall := writer.Stall()
			now.Stall, now.Longest = max(now.Stall, stall), max(now.Longest, stall)
			if now.Records, err = writer.Acked(); err == nil {
				err = answer(conn, now)
			}
			now.Stall = 0
		case <-tick.C:
			stall := writer.Stall()
			now.Stall, now.Longest = max(now.Stall, stall), max(now.Longest, stall)
			now.Records, err = writer.Acked()
		}
		if err != nil {
			return fmt.Errorf("the journal ends after %d records: %w", now.Records, err)
		}
	}
}

// startNext starts a journal in the first file of dir that is not there yet, or
// from the first byte of dir if it is a device, which must be blank.
func startNext(dir string, pause time.Duration) (*workload.Journal, string, error) {
	if isDevice(dir) {
		j, err := workload.StartPacedJournalAt(dir, 0, pause)
		return j, dir, err
	}
	for i := 1; ; i++ {
		path := filepath.Join(dir, fmt.Sprintf("journal-%d", i))
		j, err := workload.StartPacedJournal(path, pause)
		if !errors.Is(err, fs.ErrExist) {
			return j, path, err
		}
	}
}

func stop(j *workload.Journal) error {
	_, err := j.Stop()
	return err
}

// accept passes on who asks, until the process ends.
func accept(l net.Listener, asked chan<- net.Conn) {
	for {
		conn, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "workload: nobody can ask any more:", err)
			return
		}
		asked <- conn
	}
}

// answer closes conn. That the other side has gone away is its own affair.
func answer(conn net.Conn, s any) error {
	defer conn.Close()
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(text); err != nil {
		fmt.Fprintln(os.Stderr, "workload: answer:", err)
	}
	return nil
}

func progress(out io.Writer) error {
	conn, err := net.DialTimeout("unix", address, 10*time.Second)
	if err != nil {
		return fmt.Errorf("ask what runs in this pod: %w", err)
	}
	defer conn.Close()
	_, err = io.Copy(out, conn)
	return err
}

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeDevice != 0
}

// check verifies all journals of dir, or the one on a device, and prints how many
// records each has, by file name. A directory without any is an error.
func check(out io.Writer, dir string) error {
	if isDevice(dir) {
		n, err := workload.VerifyJournalAt(dir, 0)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(map[string]uint64{filepath.Base(dir): n})
	}
	paths, err := filepath.Glob(filepath.Join(dir, "journal-*"))
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return fmt.Errorf("check %s: %w: there is no journal", dir, fs.ErrNotExist)
	}
	found := map[string]uint64{}
	for _, path := range paths {
		if found[filepath.Base(path)], err = workload.VerifyJournal(path); err != nil {
			return err
		}
	}
	return json.NewEncoder(out).Encode(found)
}
