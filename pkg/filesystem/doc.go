// Package filesystem makes, recognises, checks, grows, freezes and measures the
// filesystems inside volumes: ext4 and XFS.
//
// It promises that what it makes mounts on every kernel since 5.15, whatever
// defaults the host's tools have; that it formats only what is still empty; that
// a device whose filesystem cannot be recognised is an error and never an
// invitation to format it; and that every growth can be repeated.
//
// It uses ioctls and system calls where there are some, and runs programs
// (mkfs.ext4, e2fsck, resize2fs, mkfs.xfs) only for the rest. It never repairs by
// force, and mounts nothing: that is pkg/mount.
package filesystem
