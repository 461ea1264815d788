package credential

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestOneAsksWhileTheOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		for range toOpen {
			if err := c.enter("shop"); err != nil {
				t.Fatal(err)
			}
			c.leave("shop", false, false)
		}
		time.Sleep(firstOpen)
		if err := c.enter("shop"); err != nil {
			t.Errorf("nobody may look whether the service is back: %v", err)
		}
		if err := c.enter("shop"); err == nil {
			t.Error("a second one may ask while the first does")
		}
		c.leave("shop", true, false)
		for range 3 {
			if err := c.enter("shop"); err != nil {
				t.Errorf("the service is back and %v", err)
			}
			c.leave("shop", true, false)
		}
	})
}

func TestAnOpenCircuitStopsThoseWhoFailedThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		fails := func(tenant string) {
			t.Helper()
			if err := c.enter(tenant); err != nil {
				t.Fatal(err)
			}
			c.leave(tenant, false, false)
		}
		for range toOpen {
			fails("hangs")
		}
		if c.enter("hangs") == nil {
			t.Error("who failed again and again goes on")
		}
		// Another one sees for itself, once.
		fails("other")
		if c.enter("other") == nil {
			t.Error("the service is away, and the other one goes on")
		}
		for range 10 {
			time.Sleep(longestOpen)
			fails("hangs")
			if err := c.enter("third"); err != nil {
				t.Fatal(err)
			}
			c.leave("third", true, false)
			if _, away := c.away(); away {
				t.Error("somebody has an answer, and the service passes for away")
			}
			// What the others found out counts for all.
			if err := c.enter("other"); err != nil {
				t.Error(err)
			}
			c.leave("other", true, false)
			for range toOpen {
				fails("hangs")
			}
		}
	})
}
