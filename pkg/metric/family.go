package metric

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/pkg/backend"
)

func poolLabels() []string { return []string{"pool", "pool_id"} }

// poolFamilies are what each pool has one value of.
func poolFamilies() []family[pool] {
	gauge := func(name, help string, value func(pool) (float64, bool)) family[pool] {
		return newFamily(prometheus.GaugeValue, name, help, poolLabels(), value)
	}
	counter := func(name, help string, value func(pool) float64) family[pool] {
		return newFamily(prometheus.CounterValue, name, help, poolLabels(), always(value))
	}
	return []family[pool]{
		gauge("pool_available", "Whether the pool can be used (1) or not (0).", always(func(p pool) float64 { return oneIf(p.Available) })),
		gauge("pool_looked_timestamp_seconds", "When the figures of the pool were taken, in seconds since 1970.", func(p pool) (float64, bool) {
			return float64(p.Looked.UnixMilli()) / 1000, !p.Looked.IsZero()
		}),
		gauge("pool_size_bytes", "Size of the pool's filesystem.", measured(func(p pool) float64 { return bytesOf(p.Size) })),
		gauge("pool_free_bytes", "What can still be written to the pool.", measured(func(p pool) float64 { return bytesOf(p.Free) })),
		gauge("pool_promised_bytes", "What volumes may still need of the pool: the sum of their charges.", measured(func(p pool) float64 { return bytesOf(p.Promised) })),
		gauge("pool_room_bytes", "Size of the largest volume that would be admitted now.", measured(func(p pool) float64 { return bytesOf(p.Room) })),
		gauge("pool_overcommit_ratio", "How often the pool may be promised (--overcommit).", always(func(p pool) float64 { return p.Overcommit })),
		gauge("pool_volumes", "Number of volumes.", measured(func(p pool) float64 { return float64(len(p.Volumes)) })),
		gauge("pool_snapshots", "Number of snapshots.", measured(func(p pool) float64 { return float64(p.Snapshots) })),
		gauge("pool_damaged_objects", "Number of volumes and snapshots that are not served because their record or image cannot be trusted.", measured(func(p pool) float64 { return float64(p.Damaged) })),
		gauge("pool_trash_entries", "Number of deleted volumes and snapshots whose space is not free yet.", measured(func(p pool) float64 { return float64(p.Trash) })),
		gauge("pool_image_direct_io", "Whether the loop device of a pool image does direct I/O (1) or not (0).", func(p pool) (float64, bool) {
			return oneIf(p.ImageDirectIO), p.Image && p.Available && !p.Looked.IsZero()
		}),
		counter("pool_trash_emptied_total", "Deleted volumes and snapshots whose space was freed.", func(p pool) float64 { return float64(p.Counters.TrashEmptied) }),
		counter("pool_trimmed_bytes_total", "What volumes gave back because nothing in them uses it.", func(p pool) float64 { return float64(p.Counters.Trimmed) }),
		counter("pool_admissions_refused_total", "Volumes, snapshots and growth that the pool had no room for.", func(p pool) float64 { return float64(p.Counters.Refused) }),
	}
}

// volumeFamilies are what each volume has one value of.
func volumeFamilies() []family[vol] {
	gauge := func(name, help string, value func(vol) (float64, bool)) family[vol] {
		return newFamily(prometheus.GaugeValue, "volume_"+name, help, []string{"pool", "volume"}, value)
	}
	return []family[vol]{
		gauge("size_bytes", "Size of the volume.", always(func(v vol) float64 { return bytesOf(v.Size) })),
		gauge("used_bytes", "What the volume holds in the pool, shared or not.", always(func(v vol) float64 { return bytesOf(v.Used) })),
		gauge("exclusive_bytes", "What the volume holds and can overwrite without new space.", always(func(v vol) float64 { return bytesOf(v.InPlace) })),
		gauge("promised_bytes", "What the volume may still need of the pool: its charge.", always(func(v vol) float64 { return bytesOf(v.Charge) })),
		gauge("snapshots", "Snapshots that were taken of the volume and exist.", always(func(v vol) float64 { return float64(v.Snapshots) })),
		gauge("extents", "Extents of the volume's image, of a volume that was copied and measured since.", func(v vol) (float64, bool) { return float64(v.Extents), v.Extents > 0 }),
		gauge("loop_devices", "Loop devices on the volume's image: 0 if it is not staged, never more than 1.", always(func(v vol) float64 { return float64(v.Attached) })),
		gauge("direct_io", "Whether the device of an attached volume does direct I/O (1) or not (0).", func(v vol) (float64, bool) { return oneIf(v.DirectIO), v.Attached > 0 }),
		gauge("healthy", "Whether nothing is wrong with the volume itself (1) or something is (0).", always(func(v vol) float64 { return oneIf(len(v.Conditions) == 0) })),
	}
}

// timed is a histogram of seconds.
type timed struct {
	desc  *prometheus.Desc
	value func(pool) backend.Histogram
}

func histograms() []timed {
	return []timed{
		{prometheus.NewDesc("holdfast_freeze_seconds", "How long filesystems were frozen for a snapshot or a clone.", poolLabels(), nil),
			func(p pool) backend.Histogram { return p.Counters.Freezes }},
		{prometheus.NewDesc("holdfast_guard_freeze_seconds", "How long filesystems were frozen because their pool was nearly full.", poolLabels(), nil),
			func(p pool) backend.Histogram { return p.Counters.GuardFreezes }},
	}
}

// odd are the metrics with labels of their own.
type odd struct {
	info, poolCondition, volumeCondition, thaws *prometheus.Desc
}

func newOdd() odd {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
	}
	return odd{
		info:            desc("pool_info", "1 for each pool that was configured; its filesystem is empty until it was opened.", "pool", "pool_id", "filesystem"),
		poolCondition:   desc("pool_condition", "1 for each thing that is wrong with a pool.", "pool", "pool_id", "reason", "severity"),
		volumeCondition: desc("volume_condition", "1 for each thing that is wrong with a volume.", "pool", "volume", "reason", "severity"),
		thaws:           desc("thaws_total", "Freezes that did not end as they should: by the deadline, or by or for another party.", "pool", "pool_id", "by"),
	}
}

func (o odd) send(to chan<- prometheus.Metric, p pool) {
	id := string(p.ID)
	to <- prometheus.MustNewConstMetric(o.info, prometheus.GaugeValue, 1, p.Name, id, p.Filesystem)
	for _, c := range p.Conditions {
		to <- prometheus.MustNewConstMetric(o.poolCondition, prometheus.GaugeValue, 1, p.Name, id, c.Reason, string(c.Severity))
	}
	to <- prometheus.MustNewConstMetric(o.thaws, prometheus.CounterValue, float64(p.Counters.ThawedLate), p.Name, id, "deadline")
	to <- prometheus.MustNewConstMetric(o.thaws, prometheus.CounterValue, float64(p.Counters.ThawedForOthers), p.Name, id, "other")
}
