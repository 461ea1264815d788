package node

// The steps between which the kernel shows something new, so that a test can
// stop a call there (pkg/fault). A step is announced before it is taken; the
// step "answer" comes after the last change.
const (
	StepStageAttach  = "node-stage/attach"
	StepStageCheck   = "node-stage/check"
	StepStageGrow    = "node-stage/grow"
	StepStageMount   = "node-stage/mount"
	StepStageMove    = "node-stage/move"
	StepStageRelease = "node-stage/release"
	StepStageAnswer  = "node-stage/answer"

	StepUnstageUnmount = "node-unstage/unmount"
	StepUnstageUnstack = "node-unstage/unstack"
	StepUnstageDetach  = "node-unstage/detach"
	StepUnstageAnswer  = "node-unstage/answer"

	StepPublishStack  = "node-publish/stack"
	StepPublishKeep   = "node-publish/keep"
	StepPublishCreate = "node-publish/create"
	StepPublishMount  = "node-publish/mount"
	StepPublishAnswer = "node-publish/answer"

	StepUnpublishRemove  = "node-unpublish/remove"
	StepUnpublishUnstack = "node-unpublish/unstack"
	StepUnpublishAnswer  = "node-unpublish/answer"

	StepExpandRefresh = "node-expand/refresh"
	StepExpandGrow    = "node-expand/grow"
	StepExpandAnswer  = "node-expand/answer"
)

// Steps are all steps, in the order in which a volume's life meets them.
func Steps() []string {
	return []string{
		StepStageAttach, StepStageCheck, StepStageGrow, StepStageMount, StepStageMove, StepStageRelease, StepStageAnswer,
		StepPublishStack, StepPublishKeep, StepPublishCreate, StepPublishMount, StepPublishAnswer,
		StepExpandRefresh, StepExpandGrow, StepExpandAnswer,
		StepUnpublishRemove, StepUnpublishUnstack, StepUnpublishAnswer,
		StepUnstageUnmount, StepUnstageUnstack, StepUnstageDetach, StepUnstageAnswer,
	}
}
