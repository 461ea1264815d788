package identityvolume

import (
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// States are what is known of the volumes that are published, by volume id.
func (s *Server) States() map[string]State {
	s.mu.Lock()
	all := make([]*held, 0, len(s.volumes))
	for _, h := range s.volumes {
		all = append(all, h)
	}
	s.mu.Unlock()
	out := map[string]State{}
	for _, h := range all {
		h.mu.Lock()
		state := h.state
		state.Credentials = maps.Clone(h.state.Credentials)
		h.mu.Unlock()
		out[h.id] = state
	}
	return out
}

// Collector is a prometheus.Collector of a Server. Its labels are names of Kubernetes
// and of the administrator, and the names that a pod gave its credentials.
type Collector struct {
	server *Server
	now    func() time.Time

	volumes, age, expiry, failing, fenced, refreshes, away *prometheus.Desc
}

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector is a Collector.
func NewCollector(s *Server) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_identity_"+name, help, labels, nil)
	}
	return &Collector{
		server: s, now: time.Now,
		volumes:   desc("volumes", "Identity volumes that are published.", "source"),
		age:       desc("credential_age_seconds", "How long ago a credential was got or renewed.", "namespace", "pod", "source", "credential"),
		expiry:    desc("credential_expiry_timestamp_seconds", "When a credential ends to be valid, in seconds since 1970; absent for one that does not.", "namespace", "pod", "source", "credential"),
		failing:   desc("volume_failing_seconds", "How long the credentials of a volume could not be refreshed; 0 if they can.", "namespace", "pod", "source"),
		fenced:    desc("volume_fenced", "Whether the files of a volume were emptied (1) or not (0).", "namespace", "pod", "source"),
		refreshes: desc("refreshes_total", "Refreshes by outcome: ok, failed; fenced counts the volumes whose files were emptied.", "source", "outcome"),
		away:      desc("source_away_seconds", "How long a source has not answered; 0 if it does.", "source"),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.volumes, c.age, c.expiry, c.failing, c.fenced, c.refreshes, c.away} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	now := c.now()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	since := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return max(0, now.Sub(t).Seconds())
	}
	sources := c.server.cfg.Sources
	volumes := map[string]int{}
	// Two volumes of one pod may have the same names: what is worse of the two counts.
	type key struct{ namespace, pod, source, credential string }
	age, expiry, failing, fenced := map[key]float64{}, map[key]float64{}, map[key]float64{}, map[key]float64{}
	for _, state := range c.server.States() {
		volumes[state.Source]++
		k := key{state.Pod.Namespace, state.Pod.Name, state.Source, ""}
		failing[k] = max(failing[k], since(state.Failing))
		fenced[k] = max(fenced[k], oneIf(state.Fenced))
		for name, v := range state.Credentials {
			k.credential = name
			age[k] = max(age[k], since(v.Issued))
			if end, ok := float64(v.Expires.Unix()), !v.Expires.IsZero(); ok && (expiry[k] == 0 || end < expiry[k]) {
				expiry[k] = end
			}
		}
	}
	for k, v := range age {
		gauge(c.age, v, k.namespace, k.pod, k.source, k.credential)
	}
	for k, v := range expiry {
		gauge(c.expiry, v, k.namespace, k.pod, k.source, k.credential)
	}
	for k, v := range failing {
		gauge(c.failing, v, k.namespace, k.pod, k.source)
		gauge(c.fenced, fenced[k], k.namespace, k.pod, k.source)
	}
	for _, name := range sources.Names() {
		gauge(c.volumes, float64(volumes[name]), name)
		if source, err := sources.Find(name); err == nil {
			var t time.Time
			if at, away := source.Away(); away {
				t = at
			}
			gauge(c.away, since(t), name)
		}
	}
	c.server.mu.Lock()
	counts := maps.Clone(c.server.counts)
	c.server.mu.Unlock()
	for k, n := range counts {
		to <- prometheus.MustNewConstMetric(c.refreshes, prometheus.CounterValue, float64(n), k.source, k.outcome)
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
