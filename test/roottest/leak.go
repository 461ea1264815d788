package roottest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// settleTime is how long the kernel gets to finish what the tests let go of: a
// filesystem is unmounted, and its loop device detached, after the last user is
// gone, however long its disk takes. A closed connection is one some time later, too.
var settleTime = 30 * time.Second

// state is what the tests could leave behind, each in the words in which a leak is
// reported. It is read without the packages under test, which could be wrong.
type state struct {
	tmp         string
	loops       []string
	mounts      []string
	descriptors []string
}

func observe(tmp string) (state, error) {
	s := state{tmp: tmp}
	var err error
	if s.loops, err = loopsBelow(tmp); err != nil {
		return state{}, err
	}
	if s.mounts, err = mounts(); err != nil {
		return state{}, err
	}
	s.descriptors, err = descriptors()
	return s, err
}

// leaks is what is there now and was not before.
func (before state) leaks() ([]string, error) {
	deadline := time.Now().Add(settleTime)
	var files []string
	judged := false
	for {
		now, err := observe(before.tmp)
		if err != nil {
			return nil, err
		}
		slow := slices.Concat(added(before.loops, now.loops), added(before.mounts, now.mounts))
		late := time.Now().After(deadline)
		if len(slow) == 0 || late {
			// Files are judged once: the garbage collector closes those that were dropped.
			open := added(before.descriptors, now.descriptors)
			if !judged {
				files, judged = slices.DeleteFunc(slices.Clone(open), isSocket), true
			}
			slow = append(slow, slices.DeleteFunc(open, func(d string) bool { return !isSocket(d) })...)
		}
		if len(slow) == 0 || late {
			return slices.Concat(slow, files), nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func isSocket(descriptor string) bool { return strings.Contains(descriptor, " on socket:") }

func added(before, now []string) []string {
	return slices.DeleteFunc(slices.Clone(now), func(s string) bool { return slices.Contains(before, s) })
}

// loopsBelow are the attached loop devices whose backing file is below dir, or
// was, or is such a loop device itself: the devices of others on the machine come
// and go as they like.
func loopsBelow(dir string) ([]string, error) {
	attributes, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var loops []string
	for _, a := range attributes {
		text, err := os.ReadFile(a)
		if err != nil {
			continue // detached meanwhile
		}
		backing := strings.TrimSuffix(string(text), "\n")
		if strings.HasPrefix(backing, dir+"/") {
			name := strings.Split(a, "/")[3]
			loops = append(loops, fmt.Sprintf("loop device %s on %s", name, backing))
		}
	}
	return loops, nil
}

func mounts() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		lines = append(lines, "mount "+strings.TrimSpace(line))
	}
	return lines, nil
}

// descriptors leaves out those that the Go runtime opens when it first needs them.
func descriptors() ([]string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the descriptor of ReadDir itself
		}
		switch {
		case target == "anon_inode:[eventpoll]", target == "anon_inode:[eventfd]":
		case strings.HasPrefix(target, "/sys/fs/cgroup/"), strings.HasPrefix(target, "/proc/") && strings.Contains(target, "/fd"):
		default:
			open = append(open, fmt.Sprintf("file descriptor %s on %s", e.Name(), target))
		}
	}
	return open, nil
}
