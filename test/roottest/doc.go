// Package roottest runs tests that need root, real loop devices and real mounts.
//
// It promises that such a test disturbs nobody: it runs in a mount namespace of
// its own, and its package fails if it leaves a loop device, a mount or a file
// descriptor behind. It skips, and says why, where it cannot run.
//
// Tests run only if HOLDFAST_ROOT_TESTS=1, and one package at a time (go test -p
// 1), because a mount namespace that is copied while a test runs pins the test's
// loop devices.
package roottest
