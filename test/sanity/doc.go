// Package sanity runs csi-sanity, the conformance tests of the Kubernetes CSI
// project, against the real driver on a real pool. It has tests only.
//
// It promises that nothing is stubbed and that no part of csi-sanity is switched
// off in silence: it runs in full for each kind of volume that the driver has
// (ext4, xfs, raw block), the specs that skip are exactly those of a list that
// gives the reason of each, and the number of those that pass cannot shrink.
package sanity
