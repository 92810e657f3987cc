// Package registry is what a master knows of the chunkservers: who is up, how full, which replicas each says it
// holds, and which leases run. Nothing of it is durable: chunkservers tell, and tell again after a restart.
//
// It is pure: time is an argument, what must happen comes back as values. A standby master keeps one as well, so
// that a fail-over finds the locations known.
//
// # State and invariants
//
//   - A server's index never changes while the process lives, and at most MaxServers are known.
//   - An incarnation that another replaced is never heard again: its heartbeats and pages are refused.
//   - What a server says of a replica never lowers the version that the replica is known to have promised: a slice
//     that was made before a grant and arrives after it is old news.
//   - Absence counts only inside the handle range of a page, and not for chunks that the master itself noted within
//     the last few seconds.
//   - Replicas of servers that are down stay known: a member that was heard of once is told apart from one that
//     never was (semantics 3, Choose).
//
// # Memory
//
// Handles are sequential, so locations live in pages of 256 records of 24 bytes: what the replicas of a chunk have
// in common once (version, length), then up to four server indexes. Replicas that differ from the majority of
// their chunk (one being brought up to date, one of five) are in an overflow map.
//
// What it does not do: it decides nothing about leases or configurations (master/lease) and it does not know which
// chunks exist (master/namespace).
package registry
