package figures

import (
	"fmt"
	"slices"
	"time"
)

// Samples are the durations of one kind of call.
type Samples []time.Duration

// Percentile is the p-th percentile (0 to 100), 0 if there are no samples.
func (s Samples) Percentile(p int) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

// Median is the 50th percentile.
func (s Samples) Median() time.Duration { return s.Percentile(50) }

// Max is the longest, 0 if there are no samples.
func (s Samples) Max() time.Duration { return s.Percentile(100) }

// First is the first n samples, Last the last n, or all if there are fewer.
func (s Samples) First(n int) Samples { return s[:min(n, len(s))] }

// Last is the last n samples, or all if there are fewer.
func (s Samples) Last(n int) Samples { return s[max(0, len(s)-n):] }

// Milliseconds writes a duration as a number of milliseconds, with one decimal, or
// three for what is shorter than a millisecond.
func Milliseconds(d time.Duration) string {
	if d > 0 && d < time.Millisecond {
		return fmt.Sprintf("%.3f", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.1f", d.Seconds()*1000)
}
