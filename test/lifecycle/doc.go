// Package lifecycle lives the life of volumes on the real driver, through its
// socket and on a real pool: content, growth, reboots, restarts, freezes,
// concurrent callers, full pools, and damage. It has tests only.
//
// Each test demands what a user would: data is compared byte by byte, an error
// has the right gRPC code and says what to do, and nothing is left behind.
package lifecycle
