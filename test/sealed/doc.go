// Package sealed is the prototype behind docs/adr/0023-sealed-volumes.md: a volume
// whose files are encrypted with a key of its own (fscrypt), which only a pod that
// Vault lets have it can unlock. Its tests find out, on real pools, a real driver and
// a real Vault, what could be promised of such volumes and what could not; it is told
// in docs/reference/sealed-prototype.md.
//
// It is no part of what is shipped. The driver knows nothing of it: the tests stage a
// volume with the driver, and then do here what the driver's NodePublishVolume and
// NodeUnpublishVolume would do.
//
// What it promises its tests: nothing is bound into a pod that is not encrypted with
// the key that the volume's record names, and a key that is wrong or refused leaves
// nothing behind, neither a mount nor a key in the kernel.
package sealed
