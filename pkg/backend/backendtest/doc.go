// Package backendtest is how a storage engine proves that it keeps the contract
// of pkg/backend, and what the packages above an engine are tested with.
//
// Run is the conformance suite. Every scenario of it runs plain, with every call
// repeated, with a fault and with an ending context at every step and then
// retried, with a restart in between, and several times at once. Memory is the
// reference engine: it keeps the whole contract, in memory. Faulty makes an
// engine answer with an error that it would not give on demand.
//
// The package promises to leave nothing behind in the engine that it tests. It
// is not an engine for production: Memory forgets everything with its process.
package backendtest
