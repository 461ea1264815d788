package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
)

// enabled is the variable in the environment that lets the tests run.
const enabled = "HOLDFAST_E2E"

// together is how many parallel tests run at the same time, unless -parallel says
// otherwise. They wait most of the time, so it is more than there are cores.
const together = "6"

func TestMain(m *testing.M) {
	flag.Parse()
	status := 0
	if !given("test.parallel") {
		if err := flag.Set("test.parallel", together); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	status = max(status, m.Run())
	if os.Getenv(enabled) != "" {
		if err := ownersOfAll(context.Background(), aWhile); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: after all tests:", err)
			status = max(status, 1)
		}
	}
	os.Exit(status)
}

func given(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}
