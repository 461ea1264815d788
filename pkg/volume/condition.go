package volume

import (
	"cmp"
	"slices"
)

// Severity is what a condition means for who uses the volume or the pool.
type Severity string

// The severities. The first three are those of CSI's VolumeHealthErrorType; a pool
// is Degraded or Inaccessible.
const (
	// Degraded: it works, and not as it should.
	Degraded Severity = "degraded"
	// Inaccessible: it cannot be read or written as it must be, and what was
	// written is believed to be there.
	Inaccessible Severity = "inaccessible"
	// Lost: data is gone, or most likely is.
	Lost Severity = "lost"
)

// Condition is one thing that is wrong with a volume or a pool. There is none for
// what is well.
type Condition struct {
	Severity Severity
	// Reason is CamelCase and one of a fixed list of the engine's.
	Reason string
	// Message says what was seen and what to do, for people.
	Message string
}

// Conditions brings conditions into the order in which they are reported, by
// severity and reason, each pair once.
func Conditions(list []Condition) []Condition {
	rank := map[Severity]int{Lost: 0, Inaccessible: 1, Degraded: 2}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Condition) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.CompactFunc(list, func(a, b Condition) bool { return a.Severity == b.Severity && a.Reason == b.Reason })
}

// Health is a volume with what is wrong with it.
type Health struct {
	ID         ID
	Conditions []Condition
}

// PoolHealth is a pool with what is wrong with it.
type PoolHealth struct {
	Pool       Pool
	Conditions []Condition
}
