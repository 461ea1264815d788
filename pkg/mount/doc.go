// Package mount makes, finds and removes mounts with the kernel's new mount API
// (fsopen, fsconfig, fsmount, open_tree, mount_setattr, move_mount; Linux 5.12
// and later), on file descriptors from end to end.
//
// It promises that a path from outside can lead nowhere but below the directory
// it belongs to (openat2: no symbolic links, no ".."), that a mount appears at
// its target complete, with every option set, or not at all, that filesystems
// never bring set-uid programs or device nodes with them, and that nothing is
// ever deleted recursively: what is in a directory stays there.
//
// It does not know volumes or CSI, and it runs no programs. Which options a user
// may give is decided in pkg/filesystem.
package mount
