// Package hostile attacks the real driver through its socket: with every string
// of every RPC, with links at its paths, and with requests changed at random. It
// has tests only.
//
// After each attack it demands that the answer is a code of the CSI
// specification, that nothing was touched (a tree outside the driver's
// directories, kubelet's directory, the pool, mounts, loop devices), that the
// volumes of running pods are intact, and that no secret shows in the log, in an
// error or in the metrics.
package hostile
