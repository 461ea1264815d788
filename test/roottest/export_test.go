package roottest

import "time"

// Impatient does not wait for what is left behind on purpose.
func Impatient() { settleTime = 100 * time.Millisecond }
