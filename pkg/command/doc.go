// Package command runs the few programs that have no system call in their place:
// mkfs, fsck and resize.
//
// It promises that a program obeys the context of its operation (the whole
// process group is killed when it ends, and the caller gets its answer even if
// the kernel cannot kill it yet), sees nothing of this process's environment or
// standard input, and cannot fill the memory with what it prints. A failure is
// an *Error with the exit code and the last of what was printed.
//
// A program that changes a filesystem in place is the exception: killed half-way
// it can leave one that needs a person. It goes on to its end, whoever gives up
// waiting for it, and nothing else is started on the same device meanwhile.
//
// It never runs a shell, and it is the only package that imports os/exec.
package command
