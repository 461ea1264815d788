// Package metric tells Prometheus about pools and volumes.
//
// It promises to answer a scrape from what an engine has in memory: it makes no
// system call, so a disk that does not answer holds up no scrape. A volume is named
// by its id, which is the volumeHandle of its PersistentVolume, and by nothing that
// a user chose. It decides nothing: what is too full or too slow is the business of
// alert rules.
package metric

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/pkg/backend"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// Source is where the figures come from.
type Source interface {
	// Stats is answered from memory.
	Stats() []backend.PoolStats
}

// Collector is a prometheus.Collector.
type Collector struct{ source Source }

// New is a Collector for an engine.
func New(s Source) *Collector { return &Collector{s} }

// Gatherer is a registry with nothing but the figures of an engine.
func Gatherer(s Source) prometheus.Gatherer {
	r := prometheus.NewRegistry()
	r.MustRegister(New(s))
	return r
}

// family is one metric: its name, its type, its labels, its meaning, and how to
// get its values.
type family[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	// value of one thing; ok is false if it has none.
	value func(T) (v float64, ok bool)
}

func newFamily[T any](kind prometheus.ValueType, name, help string, labels []string, value func(T) (float64, bool)) family[T] {
	return family[T]{prometheus.NewDesc("holdfast_"+name, help, labels, nil), kind, value}
}

func (f family[T]) send(to chan<- prometheus.Metric, thing T, labels ...string) {
	if v, ok := f.value(thing); ok {
		to <- prometheus.MustNewConstMetric(f.desc, f.kind, v, labels...)
	}
}

type (
	pool = backend.PoolStats
	vol  = backend.VolumeStats
)

func always[T any](f func(T) float64) func(T) (float64, bool) {
	return func(t T) (float64, bool) { return f(t), true }
}

// measured are figures that a pool has only after a look at it, and while it is
// there.
func measured(f func(pool) float64) func(pool) (float64, bool) {
	return func(p pool) (float64, bool) { return f(p), p.Available && !p.Looked.IsZero() && p.Size > 0 }
}

func bytesOf(b volume.Bytes) float64 { return float64(b) }

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var _ prometheus.Collector = (*Collector)(nil)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, f := range poolFamilies() {
		to <- f.desc
	}
	for _, f := range volumeFamilies() {
		to <- f.desc
	}
	for _, h := range histograms() {
		to <- h.desc
	}
	o := newOdd()
	for _, d := range []*prometheus.Desc{o.info, o.poolCondition, o.volumeCondition, o.thaws} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	pools, volumes, timed, o := poolFamilies(), volumeFamilies(), histograms(), newOdd()
	for _, p := range c.source.Stats() {
		id := string(p.ID)
		for _, f := range pools {
			f.send(to, p, p.Name, id)
		}
		for _, h := range timed {
			seconds := h.value(p)
			to <- prometheus.MustNewConstHistogram(h.desc, seconds.Count, seconds.Sum, seconds.Buckets, p.Name, id)
		}
		o.send(to, p)
		for _, v := range p.Volumes {
			for _, f := range volumes {
				f.send(to, v, p.Name, string(v.ID))
			}
			for _, cond := range v.Conditions {
				to <- prometheus.MustNewConstMetric(o.volumeCondition, prometheus.GaugeValue, 1, p.Name, string(v.ID), cond.Reason, string(cond.Severity))
			}
		}
	}
}
