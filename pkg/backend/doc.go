// Package backend is the contract between CSI and a storage engine: what an
// engine must do so that pkg/controller and pkg/node can keep the promises of
// the CSI specification on top of it.
//
// # The model
//
// An engine keeps objects in pools. A volume is a device's worth of bytes that
// can be written; a snapshot is such bytes that cannot. Both have an ID that
// follows from the name they were requested under (volume.NewID), so a name is
// never in need of a journal. Volumes and snapshots are independent of each
// other: a snapshot outlives its volume, a clone outlives its snapshot. Space
// may be shared between them; that is the engine's business.
//
// There are two interfaces because the two halves of a driver run in two
// processes with different rights. A Provisioner makes, copies, grows and
// removes objects. An Attacher makes a volume appear on this machine as a block
// device. What is on the device, mounts and pods are not an engine's business,
// with two exceptions: a filesystem volume comes formatted out of CreateVolume,
// and CreateSnapshot freezes a filesystem that is mounted on this machine.
//
// # Promises that every method keeps
//
//   - Idempotent. The same call with the same arguments, made again after
//     success, after an error or after a crash half way, ends in the same state
//     and gives the same answer.
//   - Durable. When a method that changes something returns nil, a power cut
//     one instruction later changes nothing about it.
//   - All or nothing to the reader. An object is listed, found and attachable
//     only when it is complete.
//   - Errors wrap a sentinel of pkg/volume where one fits and say what was tried
//     on what and what to do about it. Nothing is logged.
//   - A context that ends makes a method return early with an error. It never
//     leaves more behind than a crash at that point would.
//   - Concurrency. Methods on different objects may run at the same time, as may
//     any two that only read. The caller (pkg/rpc) never runs two mutating calls
//     on the same object at once, nor deletes a source that is being copied.
//     An engine must survive it if that happens, but may fail one of the calls.
//
// # A volume's life
//
//	spec := volume.Spec{Name: "pvc-1", Size: volume.GiB, Format: volume.Format{Mode: volume.ModeFilesystem}}
//	v, err := p.CreateVolume(ctx, spec)       // formatted, durable
//	dev, err := a.Attach(ctx, v.ID)           // /dev/loop7
//	// mount dev.Path, then:
//	dev.Close()                               // the mount holds the device now
//	v, err = p.ExpandVolume(ctx, v.ID, 2*volume.GiB, 0)
//	err = a.Refresh(ctx, v.ID)                // the device shows the new size
//	// grow the filesystem; later unmount, then:
//	err = a.Detach(ctx, v.ID)
//	err = p.DeleteVolume(ctx, v.ID)
//
// Package backendtest checks an engine against all of this.
package backend
