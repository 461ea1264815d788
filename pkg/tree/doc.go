// Package tree copies a directory with all that is below it, and proves that the
// copy is the same.
//
// # Promises
//
// A copy has the content of each file, sparse where that is blank, its owner, group,
// mode, times of access and modification, extended attributes with access control
// lists and capabilities, and its hard links. [Survey.Verify] compares all of it
// (but the times of access, which reading changes) with the source, entry by entry;
// content with the digest of what was read when it was copied: the source's files
// are read once.
//
// The source is only read. An entry that changes between the survey and the
// verification, which looks at it once more, is refused, and so is a file that
// something has open for writing at the survey. What changes after its entry was
// looked at for the last time does not show.
//
// # What it refuses and what it leaves out
//
// Another filesystem that is mounted below the directory is refused: it would be a
// part of the copy that nobody asked for, or one that is missing. Sockets are left
// out, for they belong to a process; so are SELinux labels, which the machine gives
// anew, and extended attributes that mean something on one filesystem only. Each is
// noted. Attributes of chattr(1) and the time of birth are not carried.
//
// It knows neither volumes nor pools.
package tree
