// Package master is the acting master and its standbys.
//
// Every master runs the same actors over the same replicated state; the one that leads the Raft group acts: it alone
// answers requests and gives orders to chunkservers. The others apply the log and listen to the chunkservers'
// heartbeats and inventories, so that a fail-over finds them ready.
//
// # Actors
//
//	namespace  one; owns the replicated state (master/namespace). The log's batches are applied in its turns; it
//	           answers reads, allocates chunks and knows the lease actor of each chunk.
//	lease      one for each chunk that has a primary or is wanted; spawned on demand, gone when idle (master/lease)
//	registry   one; chunkservers, inventories, leases, placement (master/registry, master/placement)
//	scanner    one; sweeps over a view in slices: sessions, trash, open chunks without a primary,
//	           chunks with too few good replicas (which their lease actors then bring in), counts
//
// Each is a pure core with a thin shell. A shell's turn reads the clock, calls the core and hands on what comes out,
// in the order notes → record → orders → answers. No turn waits: records are proposed and reads are linearized with
// callbacks that send a command, and orders go over actors/bus in the same way.
//
// # Acting
//
// A master that becomes the leader logs BeginEpoch; the epoch that this yields is in every version that it makes, in
// every record and in every order, and fences its predecessors. Until then, and from the loss of leadership on, it
// answers nobody. On the loss all lease actors end and their waiters are told to ask again: what they knew is in the
// log and at the chunkservers.
//
// # What is durable
//
// The operation log and its checkpoints (master/oplog), nothing else. Locations, leases and lengths of open chunks
// are told by chunkservers.
//
// # Ordering
//
// A mutation of the namespace is answered after it was applied here and is durable on a majority. A read is
// linearizable: leadership is verified after it arrived, once for all reads that wait, and the state then read holds
// everything acknowledged before. A client hears of a chunk's configuration after its record was applied and its
// primary has brought every member in.
//
// # What it does not do
//
// Bytes of files never come here. It brings stale and new replicas in for chunks with too few good ones, and has those
// deleted that no file needs; it does not rebalance.
package master
