// Package intake is the way by which data that exists already is handed to a running
// driver: a unix socket in its state directory.
//
// A pool has one owner, the driver; a person who imports something is another
// process, perhaps in another container, which sees files that the driver does not.
// So it opens the source itself, for reading, and passes the open file along with
// the request (SCM_RIGHTS, unix(7)). The driver needs no other access to it.
//
// # Protocol
//
// One request for each connection: a line of JSON, a Request, with one file
// descriptor; then lines of JSON from the driver, each with one of: progress, result,
// error. Whoever closes the connection before the result breaks the import off.
//
// # Promises
//
// Only root is served (SO_PEERCRED). When the server stops, imports under way are
// broken off and leave nothing.
package intake
