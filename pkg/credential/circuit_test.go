package credential

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// may asks to be let in for a tenant.
func (c *circuit) may(tenant string) error {
	_, err := c.enter(tenant)
	return err
}

// goes is a whole request of a tenant.
func (c *circuit) goes(t *testing.T, tenant string, how outcome) {
	t.Helper()
	p, err := c.enter(tenant)
	if err != nil {
		t.Fatal(err)
	}
	c.leave(p, how)
}

func TestOneAsksWhileTheOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		for range toOpen {
			c.goes(t, "shop", outcome{})
		}
		time.Sleep(firstOpen)
		probe, err := c.enter("shop")
		if err != nil {
			t.Errorf("nobody may look whether the service is back: %v", err)
		}
		if c.may("shop") == nil {
			t.Error("a second one may ask while the first does")
		}
		c.leave(probe, outcome{answered: true})
		for range 3 {
			c.goes(t, "shop", outcome{answered: true})
		}
	})
}

// TestWhoAskedBeforeLetsNobodyElseIn: a request that began before the circuit opened
// ends while another one looks whether the service is back.
func TestWhoAskedBeforeLetsNobodyElseIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		early, err := c.enter("shop")
		if err != nil {
			t.Fatal(err)
		}
		for range toOpen {
			c.goes(t, "shop", outcome{})
		}
		time.Sleep(firstOpen)
		if err := c.may("shop"); err != nil {
			t.Fatal(err)
		}
		c.leave(early, outcome{abandoned: true})
		if c.may("shop") == nil {
			t.Error("a second one may ask while the first does")
		}
	})
}

// TestOneHiccupOpensTheCircuitForAMoment: many requests were on their way.
func TestOneHiccupOpensTheCircuitForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		var all []pass
		for range 16 {
			p, err := c.enter("shop")
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
		}
		time.Sleep(100 * time.Millisecond)
		for _, p := range all {
			c.leave(p, outcome{})
		}
		if c.may("shop") == nil {
			t.Error("the circuit is not open")
		}
		time.Sleep(firstOpen)
		c.goes(t, "shop", outcome{})
		time.Sleep(2 * firstOpen)
		c.goes(t, "shop", outcome{})
		time.Sleep(firstOpen)
		if c.may("shop") == nil {
			t.Error("it does not open for longer with each failure")
		}
	})
}

func TestAnOpenCircuitStopsThoseWhoFailedThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		for range toOpen {
			c.goes(t, "hangs", outcome{})
		}
		if c.may("hangs") == nil {
			t.Error("who failed again and again goes on")
		}
		// Another one sees for itself, once.
		c.goes(t, "other", outcome{})
		if c.may("other") == nil {
			t.Error("the service is away, and the other one goes on")
		}
		for range 10 {
			time.Sleep(longestOpen)
			c.goes(t, "hangs", outcome{})
			c.goes(t, "third", outcome{answered: true})
			if _, away := c.away(); away {
				t.Error("somebody has an answer, and the service passes for away")
			}
			// What the others found out counts for all.
			c.goes(t, "other", outcome{answered: true})
			for range toOpen {
				c.goes(t, "hangs", outcome{})
			}
		}
	})
}

// TestManyNamespacesLeaveAServiceAlone: a hundred of them ask as often as they may.
func TestManyNamespacesLeaveAServiceAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		const tenants, most = 100, 5.0 // requests in a second
		asked := 0
		everySecondFor := func(d time.Duration, how outcome) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				for i := range tenants {
					if p, err := c.enter(fmt.Sprint(i)); err == nil {
						asked++
						c.leave(p, how)
					}
				}
			}
		}
		everySecondFor(2*time.Minute, outcome{})
		asked = 0
		everySecondFor(10*time.Minute, outcome{})
		rate := float64(asked) / (10 * time.Minute).Seconds()
		t.Logf("%d namespaces ask %.1f times in a second", tenants, rate)
		if rate > most {
			t.Errorf("that is more than %.0f", most)
		}
		// Each would find out by itself in time, even if it asks no more often than a
		// volume does, which waits for up to as long.
		for i := range tenants {
			if p := c.stopped[fmt.Sprint(i)]; p == nil || time.Until(p.until) > longestPatience {
				t.Errorf("namespace %d is stopped for too long: %+v", i, p)
			}
		}
		c.goes(t, "another", outcome{answered: true})
		asked = 0
		everySecondFor(time.Second, outcome{answered: true})
		if asked != tenants {
			t.Errorf("%d may ask after somebody has an answer, want %d", asked, tenants)
		}
	})
}

func TestWhoIsToldToWaitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &circuit{now: time.Now}
		c.goes(t, "greedy", outcome{answered: true, patience: 10 * time.Second})
		c.goes(t, "other", outcome{answered: true})
		if _, away := c.away(); away {
			t.Error("the service passes for away")
		}
		time.Sleep(10*time.Second - time.Millisecond)
		if c.may("greedy") == nil {
			t.Error("who was told to wait does not")
		}
		time.Sleep(time.Millisecond)
		c.goes(t, "greedy", outcome{answered: true, patience: 24 * time.Hour})
		time.Sleep(longestPatience)
		// The service is not away: nobody has to find out first.
		first, err := c.enter("greedy")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.may("greedy"); err != nil {
			t.Errorf("the time is over, and a second one may not ask with the first: %v", err)
		}
		c.leave(first, outcome{answered: true})
		c.goes(t, "greedy", outcome{answered: true})
		if len(c.stopped) > 0 {
			t.Errorf("it remembers %v", c.stopped)
		}
	})
}
