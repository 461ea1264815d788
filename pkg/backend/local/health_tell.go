package local

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// toldKey is a condition of a pool, or of a volume, that was told.
type toldKey struct {
	pool   string
	id     volume.ID // "" for the pool's own
	reason Reason
}

// maxAlike is how many volumes with the same trouble are told of one by one.
const maxAlike = 3

// tellHealth tells what has become wrong since the last time, and what is well
// again. What others have told already is left out: a pool that cannot be opened
// (slot), an object that was found damaged when its pool was opened (recover), and
// writers that wait (guard).
func (b *Backend) tellHealth() {
	now, known := map[toldKey]string{}, map[volume.ID]bool{}
	for _, st := range b.Stats() {
		for _, c := range st.Conditions {
			if c.Reason != string(PoolMissing) && c.Reason != string(GuardFroze) {
				now[toldKey{st.Name, "", Reason(c.Reason)}] = c.Message
			}
		}
		for _, v := range st.Volumes {
			known[v.ID] = true
			for _, c := range v.Conditions {
				if c.Reason != string(ObjectDamaged) && c.Reason != string(GuardFroze) {
					now[toldKey{st.Name, v.ID, Reason(c.Reason)}] = c.Message
				}
			}
		}
	}
	b.health.mu.Lock()
	var begun, ended []toldKey
	for key := range now {
		if !b.health.told[key] {
			begun = append(begun, key)
			b.health.told[key] = true
		}
	}
	for key := range b.health.told {
		if _, still := now[key]; !still {
			delete(b.health.told, key)
			if key.id == "" || known[key.id] { // else it was deleted
				ended = append(ended, key)
			}
		}
	}
	b.health.mu.Unlock()
	b.tellBegun(begun, now)
	b.tellEnded(ended)
}

func (b *Backend) tellBegun(keys []toldKey, texts map[toldKey]string) {
	for _, group := range alike(keys) {
		first := group[0]
		switch {
		case first.id == "":
			b.notice(first.reason, "pool %s: %s", first.pool, texts[first])
		case len(group) > maxAlike:
			b.notice(first.reason, "%d volumes of pool %s, %s among them: %s", len(group), first.pool, first.id, texts[first])
		default:
			for _, key := range group {
				b.notice(key.reason, "volume %s of pool %s: %s", key.id, key.pool, texts[key])
			}
		}
	}
}

func (b *Backend) tellEnded(keys []toldKey) {
	for _, group := range alike(keys) {
		first := group[0]
		switch {
		case first.id == "":
			b.notice(Healed, "pool %s: %s is over", first.pool, first.reason)
		case len(group) > maxAlike:
			b.notice(Healed, "%d volumes of pool %s: %s is over", len(group), first.pool, first.reason)
		default:
			for _, key := range group {
				b.notice(Healed, "volume %s of pool %s: %s is over", key.id, key.pool, key.reason)
			}
		}
	}
}

// alike puts together what is told in one notice if it is much: pools stay alone.
func alike(keys []toldKey) [][]toldKey {
	groups := map[string][]toldKey{}
	for _, key := range keys {
		kind := fmt.Sprintf("%s %s %t", key.pool, key.reason, key.id == "")
		groups[kind] = append(groups[kind], key)
	}
	var out [][]toldKey
	for _, kind := range slices.Sorted(maps.Keys(groups)) {
		slices.SortFunc(groups[kind], func(a, b toldKey) int { return cmp.Compare(a.id, b.id) })
		out = append(out, groups[kind])
	}
	return out
}

// nonZero are the lines of "name number" whose number is not 0, in one line.
func nonZero(text string) string {
	var found []string
	for line := range strings.Lines(text) {
		if name, number, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.Trim(number, "0 ") != "" {
			found = append(found, name+" "+strings.TrimSpace(number))
		}
	}
	return strings.Join(found, ", ")
}
