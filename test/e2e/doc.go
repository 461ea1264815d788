// Package e2e lives with Holdfast as its users do: claims, pods, snapshots and
// edits of claims on a real cluster (package cluster), with the driver running
// from the manifests of deploy. It has tests only, and they run with
// HOLDFAST_E2E=1; without it, each is skipped and says so.
//
// Each test is a scene: a namespace of its own, in which it makes what a user
// would make. It waits by watching, each wait has a deadline and shows the last
// state of the object when it fails, and data is checked by content from inside
// pods, by the command in the directory workload. When a test fails, its scene
// prints pods, claims, snapshots, events and the log of the driver since the test
// began. When it ends, the scene removes everything and demands that nothing is
// left on the node: no volume or snapshot in a pool, no loop device, no mount.
//
// Credentials come from a real Vault, which package cluster builds and the tests start.
//
// Tests that call t.Parallel run together, after those that do not. A test that
// disturbs others (it kills the driver, stops kubelet, fills a pool, measures
// time) simply does not call it.
//
//	HOLDFAST_E2E=1           run; a cluster must be up (make cluster)
//	HOLDFAST_E2E_FIGURES=F   write what was measured to the file F as well
//	HOLDFAST_E2E_PREVIOUS=C  upgrade from the driver of commit C, not of the one before this
//
// The package refuses to work round the driver: what a user could not do, a test
// does not do.
package e2e
