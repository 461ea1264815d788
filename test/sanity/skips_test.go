package sanity

// skips are the specs that may skip, by the reason: a capability that the driver
// does not have. A spec that is not here must run, one that is here must not.
func skips() map[string][]string {
	return map[string][]string{
		"no PUBLISH_UNPUBLISH_VOLUME: a local volume is attached by the node that has it, there is nothing for a controller to attach": {
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no node id is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume capability is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when no volume id is provided",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when publishing more volumes than the node max attach limit",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the node does not exist",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume does not exist",
			"Controller Service [Controller Server] ControllerPublishVolume should fail when the volume is already published but is incompatible",
			"Controller Service [Controller Server] ControllerUnpublishVolume should fail when no volume id is provided",
			"Controller Service [Controller Server] volume lifecycle should be idempotent",
			"Controller Service [Controller Server] volume lifecycle should work",
		},
		"no MODIFY_VOLUME: there is nothing yet that a VolumeAttributesClass could change": {
			"Controller Service [Controller Server] CreateVolume should create volume with a volume attribute class",
			"Controller Service [Controller Server] CreateVolume should not create volume with an invalid volume attribute class",
			"ModifyVolume [Controller Server] should fail if no volume id is given",
			"ModifyVolume [Controller Server] should fail if specified mutable parameters are not supported by the volume",
			"ModifyVolume [Controller Server] should fail if volume does not exist",
			"ModifyVolume [Controller Server] should fail to modify a volume created with a volume attribute class if new mutable parameters are not supported by volume",
			"ModifyVolume [Controller Server] should modify a volume created with a volume attribute class",
			"ModifyVolume [Controller Server] should modify a volume created without a volume attribute class",
		},
		"no SNAPSHOT_ACCESSIBILITY_CONSTRAINTS: alpha in CSI 1.13, and no sidecar asks for it yet": {
			"CreateSnapshot [Controller Server] should succeed when creating a snapshot with accessibility requirements",
		},
		"no GROUP_CONTROLLER_SERVICE: the driver has no group snapshots": {
			"GroupController Service [GroupController Server] GroupControllerGetCapabilities should return appropriate capabilities",
			"GroupController Service [GroupController VolumeGroupSnapshots] CreateVolumeGroupSnapshot should fail when no name is provided",
			"GroupController Service [GroupController VolumeGroupSnapshots] DeleteVolumeGroupSnapshot should fail when no volume id is provided",
			"GroupController Service [GroupController VolumeGroupSnapshots] DeleteVolumeGroupSnapshot should succeed when an invalid volume id is used",
			"GroupController Service [GroupController VolumeGroupSnapshots] GetVolumeGroupSnapshot should fail when an invalid volume id is used",
			"GroupController Service [GroupController VolumeGroupSnapshots] GetVolumeGroupSnapshot should fail when no volume id is provided",
		},
	}
}

// switchedOff are the specs that csi-sanity itself does not run.
func switchedOff() []string {
	return []string{
		"Controller Service [Controller Server] ListVolumes pagination should detect volumes added between pages and accept tokens when the last volume from a page is deleted",
	}
}
