// Package orchestrator plays the container orchestrator of the CSI
// specification: it calls a driver over its socket in the order and with the
// paths that kubelet and the sidecars use. The demo, the tests and the
// benchmarks see the driver through it, as a cluster would.
//
// It promises to do nothing that Kubernetes would not do: it creates the staging
// directory and the parent of a target, never the target itself, and repeats no
// call on its own. It knows nothing of the driver's insides.
package orchestrator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Client is a connection to one driver. Its methods may be used from several
// goroutines.
type Client struct {
	Identity   csi.IdentityClient
	Controller csi.ControllerClient
	Node       csi.NodeClient

	conn       *grpc.ClientConn
	kubeletDir string
}

// Dial connects to the driver's unix socket and waits until Probe says that it
// is ready, or ctx ends. kubeletDir is where staging and target paths are made:
// the driver's --kubelet-dir.
func Dial(ctx context.Context, socket, kubeletDir string) (*Client, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	c := &Client{
		Identity: csi.NewIdentityClient(conn), Controller: csi.NewControllerClient(conn), Node: csi.NewNodeClient(conn),
		conn: conn, kubeletDir: kubeletDir,
	}
	for {
		resp, err := c.Identity.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(false))
		if err == nil && resp.GetReady().GetValue() {
			return c, nil
		}
		select {
		case <-ctx.Done():
			conn.Close()
			return nil, fmt.Errorf("wait for the driver at %s to be ready: %w (last answer: ready=%v, %v)", socket, context.Cause(ctx), resp.GetReady().GetValue(), err)
		case <-time.After(5 * time.Millisecond):
			conn.Connect() // do not sit out gRPC's back-off
			conn.ResetConnectBackoff()
		}
	}
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Claim asks for a volume, as a PersistentVolumeClaim and its class do.
type Claim struct {
	Name  string
	Size  volume.Bytes
	Limit volume.Bytes // 0: none
	// FSType is the filesystem; "" leaves it to the driver. Ignored with Block.
	FSType     volume.FSType
	Block      bool
	Snapshot   string // id of the snapshot to restore
	Volume     string // id of the volume to clone
	Parameters map[string]string
	MountFlags []string
	AccessMode csi.VolumeCapability_AccessMode_Mode // zero: SINGLE_NODE_WRITER
}

// Capability is the volume capability that the claim is staged and published
// with.
func (c Claim) Capability() *csi.VolumeCapability {
	mode := c.AccessMode
	if mode == csi.VolumeCapability_AccessMode_UNKNOWN {
		mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	}
	out := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	if c.Block {
		out.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		out.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: string(c.FSType), MountFlags: c.MountFlags}}
	}
	return out
}

func (c Claim) source() *csi.VolumeContentSource {
	switch {
	case c.Snapshot != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: c.Snapshot}}}
	case c.Volume != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: c.Volume}}}
	}
	return nil
}

// Request is the CreateVolume request of the claim.
func (c Claim) Request() *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:                c.Name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: int64(c.Size), LimitBytes: int64(c.Limit)},
		VolumeCapabilities:  []*csi.VolumeCapability{c.Capability()},
		Parameters:          c.Parameters,
		VolumeContentSource: c.source(),
	}
}

// Create provisions a volume (external-provisioner).
func (c *Client) Create(ctx context.Context, claim Claim) (*csi.Volume, error) {
	resp, err := c.Controller.CreateVolume(ctx, claim.Request())
	return resp.GetVolume(), err
}

// Delete removes a volume (external-provisioner).
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// Snapshot takes a snapshot (external-snapshotter).
func (c *Client) Snapshot(ctx context.Context, name, volumeID string) (*csi.Snapshot, error) {
	resp, err := c.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volumeID})
	return resp.GetSnapshot(), err
}

// DeleteSnapshot removes a snapshot (external-snapshotter).
func (c *Client) DeleteSnapshot(ctx context.Context, id string) error {
	_, err := c.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
	return err
}

// StagingPath is where kubelet stages a volume.
func (c *Client) StagingPath(id string) string {
	return filepath.Join(c.kubeletDir, "plugins/kubernetes.io/csi/csi.holdfast.dev", id, "globalmount")
}

// TargetPath is where kubelet publishes a volume for a pod.
func (c *Client) TargetPath(id, pod string, block bool) string {
	if block {
		return filepath.Join(c.kubeletDir, "plugins/kubernetes.io/csi/volumeDevices/publish", id, pod)
	}
	return filepath.Join(c.kubeletDir, "pods", pod, "volumes/kubernetes.io~csi", id, "mount")
}

// Stage stages a volume (kubelet).
func (c *Client) Stage(ctx context.Context, id string, claim Claim) error {
	path := c.StagingPath(id)
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("make the staging directory: %w", err)
	}
	_, err := c.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: path, VolumeCapability: claim.Capability()})
	return err
}

// Publish publishes a staged volume to a pod and returns the target path
// (kubelet).
func (c *Client) Publish(ctx context.Context, id, pod string, claim Claim, readOnly bool) (string, error) {
	target := c.TargetPath(id, pod, claim.Block)
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", fmt.Errorf("make the parent of the target: %w", err)
	}
	_, err := c.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: c.StagingPath(id), TargetPath: target,
		VolumeCapability: claim.Capability(), Readonly: readOnly,
	})
	return target, err
}

// Start stages and publishes a volume to a pod, as kubelet does when the pod
// starts.
func (c *Client) Start(ctx context.Context, id, pod string, claim Claim, readOnly bool) (string, error) {
	if err := c.Stage(ctx, id, claim); err != nil {
		return "", err
	}
	return c.Publish(ctx, id, pod, claim, readOnly)
}

// Unpublish takes a volume away from a pod (kubelet).
func (c *Client) Unpublish(ctx context.Context, id, pod string, claim Claim) error {
	_, err := c.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: c.TargetPath(id, pod, claim.Block)})
	return err
}

// Unstage unstages a volume (kubelet).
func (c *Client) Unstage(ctx context.Context, id string) error {
	_, err := c.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: c.StagingPath(id)})
	return err
}

// Stop unpublishes and unstages, as kubelet does when the last pod of a volume
// ends.
func (c *Client) Stop(ctx context.Context, id, pod string, claim Claim) error {
	if err := c.Unpublish(ctx, id, pod, claim); err != nil {
		return err
	}
	return c.Unstage(ctx, id)
}

// Expand grows a volume that is published to a pod: external-resizer's call,
// then kubelet's.
func (c *Client) Expand(ctx context.Context, id, pod string, claim Claim, size volume.Bytes) error {
	resp, err := c.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: int64(size)}, VolumeCapability: claim.Capability(),
	})
	if err != nil || !resp.GetNodeExpansionRequired() || pod == "" {
		return err
	}
	_, err = c.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: id, VolumePath: c.TargetPath(id, pod, claim.Block), StagingTargetPath: c.StagingPath(id),
		CapacityRange: &csi.CapacityRange{RequiredBytes: resp.GetCapacityBytes()}, VolumeCapability: claim.Capability(),
	})
	return err
}
