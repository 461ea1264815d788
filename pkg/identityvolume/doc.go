// Package identityvolume is the CSI Node service for identity volumes: inline volumes
// of a pod that hold credentials which the pod gets with its own identity, as files.
//
// It promises that a pod starts only with everything that it asked for, fetched with
// its own token; that the files of a volume are replaced together or not at all, before
// the first of them ends to be valid; that once published a volume is never mounted
// again, unmounted, or failed because a service is away (what somebody else unmounted is
// mounted again); that whatever a pod leaves in a volume does not keep it from being
// unpublished; and that nothing secret is on any disk: files are on a tmpfs, read-only
// for the pod, which must ask for that, and everything else is in memory. After a restart of the driver volumes stay as they are, and the next call of
// kubelet's refreshes them.
//
// What is still valid is kept, whatever happens. What has ended, or was taken away, is
// kept or emptied as the pod says (keep, fence).
//
// It has no right of its own to anything: see package credential. It needs no pool and
// no device, makes no snapshot, and offers neither staging nor growth. It logs nothing;
// what somebody should know goes to Config.Notice.
package identityvolume
