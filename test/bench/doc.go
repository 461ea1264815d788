// Package bench measures the driver as its users meet it: through its socket,
// on real pools, under fio and under a database. It writes
// docs/reference/performance.md and the plots that the page shows.
//
// It promises that every figure in that page was measured in one run on one
// machine, which the page names, that a part which fails takes no other with it,
// and it asserts no figure: a slow machine is no bug. It runs only when
// HOLDFAST_BENCH names the file to write (make bench). HOLDFAST_BENCH_QUICK=1
// measures little of everything, to see that it works; HOLDFAST_BENCH_ONLY, a regular expression, runs
// the parts whose title matches.
package bench
