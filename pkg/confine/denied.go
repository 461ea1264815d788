//go:build !amd64

package confine

// deniedHere are calls that only this architecture has.
func deniedHere() []uint32 { return nil }
