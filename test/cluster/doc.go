// Package cluster is a real one-node Kubernetes on this machine, for tests and
// for a first look: etcd, API server, controller manager, scheduler, kubelet and
// containerd, built from Go modules and Debian packages, with the images of
// Holdfast's manifests built from this tree and from the sidecars' modules.
//
// It promises to use the manifests of deploy unchanged: images are imported
// under the names that the manifests have. Everything it makes is in the
// directories, addresses, ports and mounts that this package names, and [Down]
// removes all of it.
//
// It refuses to start where a kubelet has been at work, for the manifests need
// kubelet's own directory. It is no cluster for production: one CA that nobody
// guards, no DNS, no service addresses but the API server's.
package cluster
