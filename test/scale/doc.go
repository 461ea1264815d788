// Package scale fills one pool with a thousand volumes and five thousand
// snapshots, through the socket of a real driver, and looks at what that costs:
// each call at the end against the beginning, lists, starts, memory, statistics
// at kubelet's pace, and the way back to an empty pool.
//
// It promises that nothing is left at the end (loop devices, mounts, descriptors,
// trash), and that a figure which misses its aim is an error. A smaller run is an
// ordinary root test with the same aims, which it may miss by as much as plan.slack
// says; the whole one needs HOLDFAST_SCALE, the page to write (make scale). It does not
// measure the data path: see test/bench.
//
// The pool is on a sparse file that is far larger than what is written to it, so
// that a thousand volumes are admitted.
package scale
