// Package volume holds the words that every other package shares: names, ids,
// sizes, what a volume and a snapshot are, and the errors an operation on one
// can end in.
//
// It promises that an ID that was parsed is safe to use as a file name, and
// that two packages that speak of the same failure use the same sentinel. It
// imports the standard library only, does no I/O, and knows neither CSI nor
// Linux.
package volume
