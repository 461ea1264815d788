// Package docs checks the documents against the code: the reference tables
// against the flags, parameters, metrics and error codes of the driver that this
// tree builds, and every relative link against the tree. It has tests only.
//
// It promises that a table which is no longer true fails a test. It does not
// check prose.
package docs
