package main

import (
	"context"
	"os"

	"github.com/holdfast-csi/holdfast/pkg/backend/local"
	"github.com/holdfast-csi/holdfast/pkg/intake"
	"github.com/holdfast-csi/holdfast/pkg/topology"
	"github.com/holdfast-csi/holdfast/pkg/volume"
)

// importer makes imports with an engine, for driver pool import.
type importer struct {
	engine     *local.Backend
	driverName string
	ready      func() error
}

func (i importer) handle(ctx context.Context, req intake.Request, source *os.File, progress func(intake.Progress)) (intake.Result, error) {
	objects := objectsOf(req)
	if err := objects.Check(); err != nil {
		return intake.Result{}, err
	}
	if err := i.ready(); err != nil {
		return intake.Result{}, err
	}
	made, err := i.engine.Import(ctx, local.ImportSpec{
		Name: req.Name, Pool: req.Pool, Source: source, Size: req.Size,
		Format:   volume.Format{Mode: req.Mode, FSType: req.FSType, SectorSize: req.SectorSize},
		Progress: func(done, total volume.Bytes) { progress(intake.Progress{Done: done, Total: total}) },
	})
	if err != nil {
		return intake.Result{}, err
	}
	v := made.Volume
	objects.Driver, objects.Volume, objects.Topology = i.driverName, v, topology.OfPool(v.ID.Pool())
	out := intake.Result{
		ID: v.ID, Name: v.Name, Pool: made.Pool, Size: v.Size, Content: made.Content, Entries: made.Entries,
		Mode: v.Format.Mode, FSType: v.Format.FSType, SectorSize: v.Format.SectorSize,
		Existed: made.Existed, Notes: append([]string{}, made.Notes...),
	}
	out.PersistentVolume, out.PersistentVolumeClaim = objects.Objects()
	return out, nil
}
