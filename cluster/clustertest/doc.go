// Package clustertest starts a whole cluster inside a test, for programs that use clientlib: real NATS, a real
// master, real chunkservers, real files, in one process.
//
// A Cluster belongs to its test and ends with it, and so do its clients and, unless WithDir says otherwise, its data.
// Within the test, what was acknowledged survives the restart of a part, as it does elsewhere.
//
// Stopping a part here is a stop in process; it does not show what kill -9 does.
package clustertest
