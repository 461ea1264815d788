// Package loop attaches files as block devices with the kernel's loop driver, by
// ioctl and sysfs (man 4 loop; drivers/block/loop.c).
//
// It promises that a device it hands out has exactly the properties that were
// asked for, read back from the kernel; that a process that dies at any moment
// leaves no device behind unless it said so (SetAutoclear); and that looking at
// the devices of others does not change them.
//
// It knows files and devices only: what the tag means, which file belongs to
// which volume, and that a file is attached once are the caller's business. It
// runs no programs and never acts on a device by the path of its backing file,
// because such paths lie.
package loop
