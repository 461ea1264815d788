// Package image tries the root filesystem of the container image for real: it
// assembles it as make image does, and runs what is inside with nothing else in
// sight. It has tests only.
//
// It promises that every program the driver starts is in the image with its
// libraries, and that the driver there can live through the whole demo.
package image
