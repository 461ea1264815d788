// Package fault names the steps of an operation so that a test can stop it
// there: with an error, or by killing the process.
//
// It promises to cost a nil check in production. It decides nothing and injects
// nothing by itself: a Hook comes from a test, or from a binary built with the
// "failpoint" tag.
package fault

// Hook is called with the name of each step that an operation is about to take,
// such as "create-volume/rename". An error makes the operation fail there. The
// nil Hook does nothing.
type Hook func(step string) error

// At announces a step.
func (h Hook) At(step string) error {
	if h == nil {
		return nil
	}
	return h(step)
}
