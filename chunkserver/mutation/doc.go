// Package mutation is the order of a chunk's mutations, and the append table, as pure state: no goroutine, lock, clock,
// log or I/O. Time comes as an argument; what is to be done comes back as values.
//
// # Primary
//
// A Primary gives serial numbers, and to record appends their offsets, for good; it joins what waits into batches,
// knows from acknowledgements what is committed (applied by this server and by everyone down the chain), and says
// which requests are to be answered, in serial order. A record that does not fit pads the chunk; the padding is a
// mutation, and "full" is answered when it is committed. A retry of an append joins the one that is on its way, or is
// answered from the table.
//
// Serial numbers run from 1 in each version. When a version ends, Freeze stops numbering and committing. If the same
// server is granted the next version and every member was made equal to it, then all that it had numbered is committed
// (Reopen); if not, whoever waits is told to ask the master (End) and tries again with the same writer and sequence.
//
// # Secondary
//
// A Secondary checks that what arrives continues what arrived before, in serial numbers and in length, and knows up to
// where it may acknowledge: never what it or anyone below has not applied.
//
// # Table
//
// A Table remembers each writer's latest appends. It is part of a replica's state: every member's is equal at the same
// serial, and it travels with patches. Only the primary decides what leaves it.
//
// # Invariants
//
// A serial number is given to one mutation, an offset to one append. Every request is answered exactly once. What was
// answered without error is applied by every member of the version. Everything is bounded: what waits by
// gfs.MaxChunkPending and gfs.MaxChunkPendingBytes, a batch by gfs.MaxBatchBytes, the table by gfs.MaxAppendWriters.
//
// # What it does not do
//
// It holds no data, knows no network and no disk, and keeps nothing durable: package store does. It does not decide
// which server is the primary: the master does.
//
// Source: GFS 3.1 and 3.3; the table is our decision
package mutation
