// Package chunkserver is a chunkserver: it stores replicas of chunks, orders their mutations as primary or follows the
// order as secondary, serves reads, and tells the masters what it has.
//
// # Parts
//
//	store/      replicas on disk: data, checksums, index. Durable; everything else here is volatile
//	mutation/   the order of a chunk's mutations, pure
//	dataplane/  raw TCP: connections, reads, chain streams
//	chunk_*.go  the actor of a chunk that is open for mutation, by what it does: as primary, as secondary, orders, close
//	handler.go  what the data plane and the pipelines hand to the actors
//	pipeline.go the goroutine that forwards and applies one chunk's mutations in one version
//	reconcile.go bringing the members of a configuration to the primary's state
//	join.go     bringing a replica that is no member to a member's state
//	heartbeat_actor.go, orders.go, telling.go  the conversation with the masters over NATS
//
// # A mutation's way
//
// A connection's goroutine reads the data into a pooled buffer, checks them against the client's checksums, and hands
// the request to the chunk's actor. The actor's core (mutation.Primary) numbers it when the pipeline has room, joined
// with what else waits. The pipeline sends the batch as one frame to the successor and applies it here. The successor's
// connection goroutine reads and checks the frame; its actor checks the order; its pipeline forwards and applies. When
// a member has applied a frame and everyone below it has acknowledged it, it acknowledges it itself. When the primary
// has applied it and its successor has acknowledged it, it is committed and the clients are answered. Bytes never pass
// through an actor, and an actor has one turn for a frame, never one for a block.
//
// # States of a chunk here
//
// A bystander takes no mutations; it answers Prepare, and serves reads of the version that its replica holds. A primary
// numbers mutations in the version it was granted, a secondary applies them in the version in which its predecessor
// opened the chain, which it has promised. Being either is volatile: after a restart a server is a bystander to all its
// chunks. Prepare ends any older version: the chain streams are dropped, what is in the pipeline's hands is applied
// here, and then the promise is persisted and the replica's state told. Nothing of an older version is acknowledged
// after that.
//
// A member that owes an acknowledgement and is silent for gfs.MemberSilence, or whose connection breaks, is named to
// the predecessor and so on up to the primary, which stops committing, tells the master, and keeps its clients waiting
// for the next configuration. If it is primary in that one as well, what it had numbered is committed by reconciling
// the others with it, and its clients never notice; if another is, they are told to ask the master, as
// they are while the primary cannot reach it.
//
// While a chain is opened and members are made equal, which may take long, whoever waits for another pings it beside
// (attended.go), and the primary tells the master that it is at work.
//
// A replica that missed a configuration, or an empty one, becomes a learner by the master's clone order: it copies what
// differs from a member, at most gfs.MaxServerJoins at once, while that one goes on. Prepare then tells it that it is a
// joiner: under it, it takes the rest from a member that has promised the same version, and is on disk before it answers.
// It is a learner, and serves and counts for nothing, until the chain of a configuration is opened with it.
//
// # Invariants
//
// Orders of a replaced master, or for another process, are refused; a higher epoch is on disk before its order is
// obeyed. A chunk has at most one actor; at most one slow order of a chunk is carried out at a time, in the order of
// arrival, but a Prepare makes those that wait for others give up. A version's chain is opened once it has mutations,
// and never again. Every request is answered once.
//
// # What is durable
//
// What store says is. An acknowledged mutation has been applied by every member of its configuration: it survives the
// end of every process, and a loss of power where it was synced (Mutate.synced, SyncChunk, or a closed chunk).
//
// # What it does not do
//
// It never decides who is a member or a primary, deletes nothing unasked, and does not know the files that chunks
// belong to.
package chunkserver
