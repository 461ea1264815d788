// Command archive makes a container image of a root filesystem, without a
// container engine: a docker-archive with one layer, as docker load, podman load
// and ctr images import read it.
//
// The same files make the same bytes: entries are in order of name, belong to
// root and bear the time of SOURCE_DATE_EPOCH (reproducible-builds.org). It
// refuses what has no place in the image, such as device nodes and sockets.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "archive:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	flags := flag.NewFlagSet("archive", flag.ContinueOnError)
	rootfs := flags.String("rootfs", "dist/rootfs", "the root filesystem")
	out := flags.String("out", "dist/holdfast-image.tar", "the image to make")
	tag := flags.String("tag", "holdfast:devel", "what to call it")
	entrypoint := flags.String("entrypoint", driverProgram, "the program that the image runs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	created, err := epoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	i := image{rootfs: *rootfs, tag: *tag, entrypoint: *entrypoint, created: created, architecture: runtime.GOARCH}
	if err := i.write(f); err != nil {
		return fmt.Errorf("make an image of %s: %w", *rootfs, err)
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s, %d MiB\n", *out, *tag, st.Size()>>20)
	return nil
}

// epoch is the time that every entry bears; "" is the start of 1970.
func epoch(seconds string) (time.Time, error) {
	if seconds == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970: %w", seconds, err)
	}
	return time.Unix(n, 0).UTC(), nil
}
