// Command workload is the application inside the pods of the end-to-end tests.
// It writes data whose every byte it can check later (pkg/workload), and says what
// a volume is seen to be from inside a pod.
//
//	workload idle                           do nothing until SIGTERM
//	workload write FILE SIZE SEED           write a pattern, synced
//	workload verify FILE SIZE SEED          check it
//	workload journal [-pause=20ms] DIR      append synced records to a new file in DIR until SIGTERM
//	workload watch FILE                     read it over and over, and through the descriptor of the beginning
//	workload pairs DIR                      load and use the certificate and key of DIR, over and over
//	workload await FILE TEXT                end as soon as the file has this text
//	workload progress                       ask the journal, watch or pairs of this pod how it does, in JSON
//	workload check DIR                      check every journal in DIR, print the records of each, in JSON
//	workload space PATH                     the size in bytes of a device, or of the filesystem at a directory
//
// FILE may be a block device, and so may DIR, which then has one journal from its
// first byte on. It promises to end with status 1 and one line on standard error
// when anything is not as it was written, and at the first I/O error. It refuses to
// overwrite a journal: each run writes a new one.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/pkg/volume"
	"github.com/holdfast-csi/holdfast/pkg/workload"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to do: idle, write, verify, journal, watch, pairs, await, progress, check or space")
	}
	verb, args := args[0], args[1:]
	switch {
	case verb == "idle" && len(args) == 0:
		<-ended()
		return nil
	case verb == "write" && len(args) == 3:
		return withPattern(args, func(path string, seed uint64, size volume.Bytes) error {
			return workload.Write(path, seed, size, true)
		})
	case verb == "verify" && len(args) == 3:
		return withPattern(args, workload.Verify)
	case verb == "journal":
		return journal(args)
	case verb == "watch" && len(args) == 1:
		return watch(args[0])
	case verb == "pairs" && len(args) == 1:
		return pairs(args[0])
	case verb == "await" && len(args) == 2:
		return await(args[0], args[1])
	case verb == "progress" && len(args) == 0:
		return progress(os.Stdout)
	case verb == "check" && len(args) == 1:
		return check(os.Stdout, args[0])
	case verb == "space" && len(args) == 1:
		return space(args[0])
	}
	return fmt.Errorf("%s with %d arguments: no such command", verb, len(args))
}

// ended is closed, in effect, when somebody asks this process to end. The first
// process of a container has no default action for SIGTERM.
func ended() <-chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	return signals
}

func withPattern(args []string, do func(path string, seed uint64, size volume.Bytes) error) error {
	size, err := volume.ParseBytes(args[1])
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("read the seed: %w", err)
	}
	return do(args[0], seed, size)
}

func space(path string) error {
	size, err := spaceOf(path)
	if err != nil {
		return fmt.Errorf("measure %s: %w", path, err)
	}
	fmt.Println(size)
	return nil
}

// spaceOf is the size in bytes of a block device, or of the filesystem that is
// mounted at a directory.
func spaceOf(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if info.IsDir() {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil {
			return 0, err
		}
		return st.Blocks * uint64(st.Bsize), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	return uint64(end), err
}
