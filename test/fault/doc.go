// Package fault crashes the driver for real: SIGKILL at every named step of
// every operation that changes something, in the machine's namespaces and in
// those of a pod, and reboots. It has tests only.
//
// After each crash it demands that what was acknowledged is there with its
// content, that the same call made again succeeds, that nothing is left over
// once the objects are gone, and that a pod which was writing all the while never
// noticed.
package fault
