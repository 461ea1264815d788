package local

import "github.com/holdfast-csi/holdfast/pkg/volume"

// keepsBlocks says whether the device of a volume refuses discards, and with them
// zeroing without writing (lo_fallocate, drivers/block/loop.c): everything that
// changes what an image has in the pool other than by writing to it.
//
// A volume that was promised its whole size gains nothing by giving blocks back,
// and could lose the promise. A block that was in place needs new space when it is
// written again, before anybody has measured that; on btrfs its extent stays
// allocated while any other block of it lives; and zeroing a range there needs new
// space for all of it although it had its own (measured: an I/O error on a full
// pool, docs/adr/0015). Only a filesystem volume of a pool that overcommits, where
// the guard watches, gives blocks back.
func (p *pool) keepsBlocks(o object) bool {
	return !p.overcommitted() || o.Format.Mode == volume.ModeBlock
}
