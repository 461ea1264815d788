// Package rpc is everything that is the same for each CSI call, done once: the
// socket, the limits on what comes in, the locks, the operations that outlive
// their callers, the mapping of errors to gRPC codes, the log line, the metrics
// and the redaction of secrets. A service behind it is left with the meaning of
// its calls and nothing else.
//
// # The way of a call
//
// The interceptors, outermost first:
//
//  1. lastResort: a panic of the interceptors themselves becomes INTERNAL.
//  2. logCalls: the one log line of the call.
//  3. recordMetrics: duration by method and code.
//  4. statusErrors: sentinels of pkg/volume become codes, secrets leave the text.
//  5. recoverPanics: a panic becomes an error, which 4 to 2 then treat as such.
//  6. gated: nothing but Identity is served where the machine is not fit for it.
//  7. validateRequests: what breaks the limits of the CSI specification.
//  8. runOperations: locks, joining, deadline; then the service's method.
//
// A request that cannot be decoded never reaches them; the services are
// registered through a wrapper that gives it the same code and log line.
//
// # Promises
//
//   - A call that changes something runs as an operation with a deadline of its
//     own. The caller's context bounds how long the caller waits, nothing else.
//     An identical call joins the operation that runs; a conflicting one waits
//     for a moment and is then ABORTED.
//   - Calls on one object meet at one lock, whether they name it by name or by id.
//   - No panic of a service ends the process.
//   - No secret of a request, and nothing that has the shape of a JWT, reaches
//     the log, an error text or a metric.
//   - An error has no response and its status has no details.
//   - Run returns only when no operation is running, or says which ones were left
//     after the grace period.
//
// # Refusals
//
// It knows no CSI semantics beyond what objects a call touches (keys.go), serves
// on no network, and never retries.
package rpc
