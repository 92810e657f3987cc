// Package lease is one chunk's lease and configuration at the acting master: who its primary is, and how it gets
// another version when something failed.
//
// It is pure. Inputs are method calls with the time as an argument; what must happen is collected and fetched with
// Take: orders to chunkservers, one record for the operation log, answers to who waits, the next time to call Tick.
// A shell carries them out and feeds the answers back.
//
// # States
//
//	Creating → Placing → Open        a new chunk: orders to all members, then its record
//	       ↘ Reserved ↗              if it is not wanted yet
//	Idle → Locating → Preparing → Logging → Granting → Open
//	                ↘ Waiting ↗      members that may still be heard of
//	Open → Closing → Idle            the primary asked for the close
//	InDoubt                          a record's outcome is unknown: nothing more in this epoch
//	Ended                            another master acts, or the chunk is gone
//
// # Invariants
//
//   - A version is used for one attempt. It is granted once: to one incarnation, with exactly the members that
//     answered its Prepare (or its creation), and not before its record was applied.
//   - An attempt counts only if everyone who was told has answered, and as a sound member that holds the version
//     which the attempt started from. Who is silent or not such a member is left out of a new attempt with a new
//     number.
//   - Silence is not counted once in each phase of an attempt if this process finds that it was held up itself.
//   - A primary that says nothing of its Grant for GrantSilence, or does not end it in GrantTimeout, is left out of a
//     new attempt.
//   - A joiner is told in one attempt of a Join at most, and only when it lacks little. While the chunk is open that attempt
//     is not begun before every member has given a sign of life, to the primary too, and the joiner to the primary. It becomes a member if its
//     digest equals that of a member that answered in the same version; it never is the primary, and whatever it does
//     or does not answer causes no new attempt.
//   - The first attempts of a reconfiguration follow each other at once, further ones at growing distances.
//   - One attempt at a time, and none while the outcome of an earlier record of the chunk is unknown.
//   - The record of a configuration names the version that it started from, and is refused if that is no longer
//     the logged one. A request that names another version than the logged one changes nothing.
//   - A member that was not complained of is left out only after a grace, if members are missing that this master
//     never heard of, or if fewer than two (or than the file's replicas) would remain. The last member that is left is asked
//     meanwhile whether it hears the others; of those that it does not hear it complains, and those that it hears are told of
//     the attempt by way of it. Who is told so is never the primary, for nothing could be granted to it.
//   - For ComplaintPause after a client complained of a primary that does answer, a client's complaint moves the next one only
//     if that one, asked once, gives no sign of life to the master, or none to another member.
//   - A Seal ends with the chunk closed in the log, or with an error; it closes nothing by force: the primary does, as it
//     does with an idle chunk.
//   - Every waiter is answered exactly once.
//
// The rules are model-checked (semantics 3); a property test here runs this code against model chunkservers with
// lost and late messages, restarts and a second master, and checks that no good replica lacks what was acknowledged.
//
// # What it does not do
//
// It has no clock, no randomness, no I/O. It does not know where replicas are (master/registry tells it with
// Located), and it does not look for replicas to bring in: somebody names them with Join, one at a time.
//
// Leases need no clock for safety: the version fences. Expiry is housekeeping.
//
// Source: GFS 3.1, PacificA 3, with unique versions and members that the log only counts
package lease
