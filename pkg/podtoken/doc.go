// Package podtoken reads the service account tokens of a pod that kubelet passes to
// NodePublishVolume, and says whether one of them may be used for that pod now.
//
// It promises that a token is given out only for the audience that was asked for,
// never past its expiry, and only if the pod and the service account that are in its
// claims are those that kubelet says the volume is published for. A token prints as
// *** (package secret), and no error of this package has any of it.
//
// It does not verify signatures. The tokens come from kubelet over the driver's own
// socket, and who gets one from us, Vault or a security token service, verifies it
// with the keys of the cluster: a forged one opens nothing. What is checked here
// keeps a mistake, of kubelet or of ours, from giving one pod what belongs to
// another.
//
// The format is that of Kubernetes: pkg/volume/csi/csi_mounter.go, and KEP-1855 and
// KEP-5538 for where the tokens are.
package podtoken
