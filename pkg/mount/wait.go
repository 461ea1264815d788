package mount

import (
	"context"
	"fmt"
)

// giveUp runs a system call that the kernel may never finish, and stops waiting
// when ctx ends. The call itself cannot be stopped: it goes on in the background
// until the kernel returns, and then undo gets what came too late.
func giveUp[T any](ctx context.Context, doing string, call func() (T, error), undo func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("%s: %w", doing, err)
	}
	done := make(chan result, 1)
	go func() {
		value, err := call()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				undo(r.value)
			}
		}()
		return none, fmt.Errorf("%s: gave up waiting for the kernel, which goes on: %w", doing, ctx.Err())
	}
}
