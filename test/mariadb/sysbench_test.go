package mariadb

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAReportOfSysbenchIsParsed(t *testing.T) {
	at := time.Unix(7, 0)
	for line, want := range map[string]Second{
		"[ 3s ] thds: 4 tps: 312.04 qps: 6240.81 (r/w/o: 4368.57/1248.16/624.08) lat (ms,95%): 18.61 err/s: 0.50 reconn/s: 0.00": {
			At: at, Transactions: 312.04, P95: 18610 * time.Microsecond, Errors: 0.5,
		},
		"[ 120s ] thds: 4 tps: 0.00 qps: 0.00 (r/w/o: 0.00/0.00/0.00) lat (ms,95%): 0.00 err/s: 0.00 reconn/s: 0.00": {At: at},
	} {
		have, ok := parseSecond(line, at)
		if diff := cmp.Diff(want, have); !ok || diff != "" {
			t.Errorf("%s: %v\n%s", line, ok, diff)
		}
	}
	for _, line := range []string{"", "Threads started!", "[ 3s ] thds: 4 eps: 12", "    transactions:                        100    (10.00 per sec.)"} {
		if have, ok := parseSecond(line, at); ok {
			t.Errorf("%q was taken for a report: %+v", line, have)
		}
	}
}
