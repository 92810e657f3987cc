// Package oplog is the operation log: the sequence of all changes to the master's state, replicated by Raft over 1,
// 3 or 5 masters, and the checkpoints that keep it short.
//
// It knows nothing of files and chunks. A record is opaque bytes, the state is a Machine, and what a record does is
// decided by the machine when the record is applied, in log order, on every master alike. Raft itself is
// hashicorp/raft, its log is hashicorp/raft-wal, its term and vote are in hashicorp/raft-boltdb; this package adds
// group commit, linearizable reads, checkpoints in bolt, checks of everything that is read back, and errors that say
// whether a record takes effect.
//
// # What is durable when
//
//   - Propose answers when the record's log entry is written and synced on a majority of the masters (alone: on this
//     one) and applied here. Killing every master at once loses nothing that was answered, nor does losing power.
//   - gfs.ErrNotActing, gfs.ErrBusy, gfs.ErrUnavailable and fs.ErrInvalid from Propose say that the record takes no effect, ever.
//     gfs.ErrOutcomeUnknown says that it may, now or under a later leader: it was on its way when leadership was lost,
//     the log closed, or the caller gave up. Whoever retries needs a machine that recognizes the second one.
//   - Checkpoint answers when the checkpoint is synced under its final name. Only then is log dropped.
//   - A failed write or sync of the log is fatal (Config.Crash): afterwards nobody knows what is on the disk.
//
// # Order
//
//   - Records are applied in log order. Proposals of one caller, and of callers that order themselves, enter the log
//     in their order; ProposeAsync answers in log order. Each record is applied once on a master that stays up; after
//     a restart the machine is built again from the newest checkpoint and the entries behind it.
//   - A master acts (Acting, Changes) only after a log entry of its own term, hence all that was ever acknowledged, is
//     applied in its machine. Acting can lag behind a loss of leadership by the time it takes to notice; a proposal
//     then fails and Linearize refuses, but an order to a chunkserver must carry an epoch that the machine gave out.
//   - After Linearize, a read of the machine sees everything that was acknowledged before Linearize was called. One
//     check of leadership serves all that wait; a lone master needs none.
//   - Records proposed in one term may, in a rare race, enter the log in a later term of the same master. A record
//     whose effect depends on who acts must name the epoch, and the machine must check it.
//
// # Group commit
//
// One goroutine takes what waits, up to MaxBatchBytes and MaxBatchRecords, and hands it to Raft as one log entry; it
// takes the next batch as soon as that entry is written here, while it is still being replicated. A lone record is
// never delayed. The queue is bounded; beyond it proposals are refused with gfs.ErrBusy.
//
// # State and invariants
//
// The machine has applied exactly the entries up to Stats.Applied. On a master that acts, every committed entry
// since it began reaches the machine, so Applied reaches any commit index. Either everything that was read
// back has passed its checks or nothing more is applied (the applier's failure is sticky).
//
// # Folder
//
//	identity           whose folder it is: lines of text, the last one a CRC32C of the others
//	lock               locked (flock) by the process that uses the folder
//	raft/wal/          log entries in segments of Config.SegmentBytes, and raft-wal's own index of them
//	raft/stable.bolt   term and vote
//	raft/snapshots/    the newest two checkpoints, a folder each: meta.json and state.bin, the bolt file
//	raft/checkpoint.tmp  a checkpoint being built; removed
//
// Restore makes such a folder out of a state: a checkpoint, a term and, last of all, the identity.
//
// A new folder is bootstrapped, an old one never. Log without term, term without log, a log that does not reach back
// to the newest checkpoint, and a group with other members than it was formed with are refused. What a crash can
// leave behind (a half-made new folder, a received checkpoint ahead of the log, unfinished checkpoints) is put right.
//
// # Formats
//
// The data of a log entry is a batch, numbers little-endian:
//
//	offset  bytes
//	0       3      magic "CLB"
//	3       1      format, 1
//	4       4      CRC32C of all the other bytes of the batch
//	8       4      number of records, 0 in a barrier
//	12      ...    for each record: its length (uvarint), its bytes
//
// Each log entry, also Raft's own, carries in its Extensions 4 bytes: the CRC32C of index (8 bytes), term (8), type (1)
// and data. The leader makes it before the first write; every master checks it before writing and after reading.
// raft-wal, in turn, checks the last write of its last segment by itself, and takes damage there for a write that was
// cut short: a bit that rots in the very last entry is indistinguishable from a crash.
//
// A checkpoint is a bolt file:
//
//	bucket      key        value
//	checkpoint  magic      "cairn checkpoint"
//	            format     uint32, 1
//	            pages      uint64, how many keys bucket pages has
//	            crc32c     uint32, CRC32C over the checksums of all pages in key order
//	pages       Page.Key   4 bytes CRC32C of (length of key as uint32, key, value), then Page.Value
//
// It is written in key order, at most 10,000 keys a transaction, streamed into Raft's snapshot store (which adds a
// CRC64 over the file), and mapped into memory to be read. Everything is checked before the machine sees the first page.
//
// A connection between masters begins with a greeting from whoever opened it: "CAIRNRFT", a format byte (1), SHA-256 of
// the cluster's name. Anything else is cut off. Then it is the Raft library's protocol. There is no
// authentication: the port belongs on a private network.
//
// A newer format of any of these is refused with fs.ErrInvalid and a message that says so.
//
// # Logging
//
// Open, close, checkpoints and changes of role at Info; a failed checkpoint at Warn; what ends the process at Error. The
// Raft library's lines are Debug, but for its errors, which are Warn, each kind once in half a minute.
//
// # What it does not do
//
// It does not change the members of a group, authenticate masters, or give records meaning. It keeps no time: a
// proposal waits as long as its context allows.
package oplog
