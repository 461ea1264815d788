// Package bench measures the driver as its users meet it: through its socket,
// on a real pool, by percentiles. It writes docs/reference/performance.md.
//
// It promises that every figure in that page was measured in one run on one
// machine, which the page names, and asserts none of them: a slow machine is no
// bug. It runs only when HOLDFAST_BENCH names the file to write (make bench).
package bench
