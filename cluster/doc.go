// Package cluster runs a whole cluster in one process: a NATS server, masters and chunkservers over the real bus,
// the real Raft log, real sockets and real files. It serves `cairn dev`, the project's tests and, through
// clustertest, the tests of programs that use clientlib.
//
// Nothing in it is a stand-in: each part is started as its own process would start it, with the same configuration.
// What one process cannot show is the loss of a process (kill -9); for that see the package processes.
//
// A cluster lives in one directory: nats is stateless, masters have m1, m2, …, chunkservers cs1, cs2, …. Started
// again on the same directory it has all it had.
package cluster
