// Package dataplane is the raw TCP side of a chunkserver, and the only package of it that opens sockets: it accepts
// the connections of clients and of other chunkservers, serves reads by itself, and hands everything else to a
// Handler. It also holds the calling side of what chunkservers say to each other: chain streams, digests, patches.
//
// # Connections
//
// A connection is read by one goroutine and written by another, so that a reply may come from anywhere and never
// makes its sender wait; small replies that are ready together leave in one system call. Reads are answered by the
// reading goroutine itself, straight from the replica: settled blocks by sendfile(2) with their stored checksums,
// all else as a checked copy. Requests in flight are bounded for each connection and for each chunk in number and
// bytes, and in bytes for all of them; beyond a bound the connection is not read on, and TCP holds the peer back: who
// is refused for lack of room would send the same bytes again. A connection may be idle for ever, but a frame that was
// begun must end, and a reply that was begun must be taken, in time.
//
// A malformed frame closes its connection and nothing else.
//
// # Chains
//
// A member of a chunk's chain dials its successor and sends ChainOpen; from then on the connection is that chunk's
// and version's stream: ChainApply, ChainTick and ChainClose go down it in the order in which they are sent, and
// cumulative ChainAcks come up. A stream is never continued on another connection. What a member has received and
// not applied is bounded, so a slow member slows its predecessor and nobody runs out of memory.
//
// # Pushed data
//
// A client may push the data of a mutation ahead of it, along a chain that begins at the replica nearest to itself. Each
// server passes on what it has verified while more arrives, on one connection for each pair of an accepted connection
// and a next server, keeps the data, and answers when all after it have answered. The mutation then names the data, and so do
// the frames of chain streams: a member takes its own, or pulls those of the primary, who has them until the mutation is
// answered. What waits for its mutation is bounded for each position in a chain apart, and dropped after
// gfs.PushLifetime. A mutation whose data are not there ends its client's connection: nothing behind it may overtake it.
//
// # Who owns the bytes
//
// Data lie in Buffers of a Pool, each with one owner at a time, who releases it. A Mutation, an Apply and the data
// of a patch own their buffers; whoever is handed one releases it once. Pushed data have several holders, the last of
// whom gives the buffer back.
//
// # What it does not do
//
// It orders nothing, decides nothing and keeps no state of a chunk: that is package mutation and the chunk actor.
// Nothing here is durable.
package dataplane
