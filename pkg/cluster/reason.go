package cluster

// Reason says in one word what an event is about, beside those of the engine:
// CamelCase, and one of a fixed list. docs/reference/events.md says what to do
// about each.
type Reason string

// The reasons of events about the driver itself.
const (
	// MountNotShared: the host does not see what the driver's container mounts.
	MountNotShared Reason = "MountNotShared"
	// NodeRefused: another node has Holdfast's claim.
	NodeRefused Reason = "NodeRefused"
)

// Reasons are all reasons of this package.
func Reasons() []Reason { return []Reason{MountNotShared, NodeRefused} }
