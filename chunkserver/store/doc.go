// Package store keeps one chunkserver's replicas on its data directories: their bytes, checksums, lengths and append
// tables, and which version of the chunk each promised and holds. It orders nothing and talks to nobody; what to
// write, and in which order, its callers decide.
//
// # A data directory
//
//	identity       whose it is: JSON with magic, format, server id, cluster id
//	LOCK           flock of the process that has it
//	index.bolt     the index of the replicas here
//	chunks/ab/H    a replica's bytes, H its handle in hex, ab the last two digits of it; sparse
//	chunks/ab/H.crc  its checksum file
//	trash/H.T      what was deleted, T when in nanoseconds since 1970; and H.T.crc
//	patches/H      the side file of a patch under way
//
// Several directories make one server: the same identity in each, an index of its own in each, so that a lost disk
// takes with it what was on it and no more. A replica is in one directory, the one that had most space when it was
// made. A later format of any file is refused.
//
// # The index
//
// A bolt file of three buckets. It is all that a restart reads of a replica that is not open for mutation.
//
//	replicas   handle, big endian → row
//	removals   handle → the name in the trash of a replica deleted but perhaps not yet moved; void beside a row
//	server     format, epoch, boot
//
//	row    bytes  little endian
//	0      1      format, 1
//	1      1      state
//	2      1      flags: 1 marked (open for mutation), 2 redo (apply the side file)
//	3      1      zero
//	4      8      promised version
//	12     8      active version
//	20     8      length
//	28     8      commit length
//	36     8      number of the last record in the checksum file
//	44     4      CRC32C of key and the 44 bytes before
//
// While a replica is marked its checksum file knows its length, commit length and active version better, and the
// index only promised, mark and state. Commits are fsynced; callers that come while one runs share the next.
//
// # The checksum file
//
// Three regions of 4 MiB, sparse, of which one is in use: a checkpoint of everything, and behind it a log of what
// changed since, one record after another without a gap. When the log has grown long a checkpoint is written to
// another region, and that is in use from then on; the region that the last sync point is in is left alone. Checkpoints and records are numbered with one sequence; a restart
// takes the sound checkpoint with the higher number and follows the records numbered on from it up to the first that
// is not there or not sound. A sound record further on means that not a crash but rot ended the log: the replica is
// suspect.
//
//	checkpoint     little endian
//	0      8       magic "cairnsum"
//	8      4       format, 1
//	12     4       CRC32C of all but this field
//	16     8       chunk handle
//	24     8       sequence
//	32     8       length of the checkpoint, a multiple of 8
//	40     8       length
//	48     8       commit length
//	56     8       active version
//	64     8       state
//	72     8       sync point: the length that was on disk at the last sync
//	80     4       CRC32C of the block that the sync point cuts, up to there
//	84     4       number of blocks
//	88     4       number of unknown blocks
//	92     4       length of the append table
//	96     8       zero
//	104            CRC32C of each block, of its bytes below the length; the unknown blocks' numbers, with bit 31 where an
//	               intent named it; zeros up to a multiple of 8; the append table as mutation.Table writes it; zeros
//
//	record         little endian
//	0      4       CRC32C of what follows
//	4      4       length of the record, a multiple of 8
//	8      8       sequence, one above the one before
//	16     1       kind: 1 progress, 2 intent, 3 sync
//	17     1       state
//	18     2       zero
//	20     4       progress: the block that the first CRC is of
//	24     8       length (sync: of the sync point)
//	32     8       commit length
//	40     8       active version
//	48     4       number of CRCs, or of an intent's blocks
//	52     4       number of appends
//	56     4       number of dropped writers
//	60     4       zero
//	64             CRC32Cs, 4 each, or an intent's (block, CRC32C), 8 each; zeros up to a multiple of 8; appends as
//	               writer, sequence, lowest unacknowledged, offset, length (8 8 8 4 4); dropped writers, 8 each
//
// # Order on disk
//
// WriteAt below the length: intent record → data. The next record of any kind says that the data was written, so
// only the blocks of an intent that ends the log are in doubt after a crash: each is what the CRC before says, or
// what the intent says, or unknown. Unknown blocks are served to nobody, count as different in a Digest, and are
// mended by a patch, by an overwrite of the whole block, or, when the intent named them, by Recompute.
//
// WriteAt beyond the length: data alone, since a restart cuts the file at the length. Advance then writes one progress
// record with the length, the CRCs of what it moved over, and the change of the append table: all of it is there after
// a crash, or none. So a piece of a stream costs two system calls however many blocks it has, and nothing is
// allocated.
//
// ApplyPatch: fsync of data not synced → side file → fsync → redo mark in the index → data, checkpoint → fsync → mark off.
// From the mark on a restart does it again.
//
// # What is durable
//
// Against kill -9: everything that a call returned from, since the page cache outlives the process. Against a loss of
// power: the index (creation, promise, mark, state, deletion, epoch), patches, and whatever Sync or SyncAll covered.
// A replica that was marked when power was lost, or that comes back on another mount or after a failed fsync, is
// suspect until it is patched or its state is set: its files may be of different moments. Its log holds at least
// what was synced, as records are only ever added behind those and their region is not written over before
// the next sync. Closed replicas (SyncAll, then Unmark) are untouched by either.
//
// # Concurrency
//
// A replica has one lock for writers, held across their I/O but not across fsyncs, and one for what readers see, held
// for memory alone but for the write that overwrites bytes they may be reading. Readers read without it and compare a
// count of overwrites. Every read is checked against its CRC, except what Settled gives to sendfile: those blocks do
// not change, and the receiver checks them.
//
// # What it does not do
//
// It does not know which version is the logged one, does not fence requests by version, does not forbid a restarted
// process to go on in the version before (whoever orders mutations has to), does not verify idle replicas by itself,
// does not fetch anything from peers, and does not expire the trash.
package store
