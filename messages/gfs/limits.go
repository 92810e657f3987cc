package gfs

import "time"

// Bounds on what comes from outside and on what is kept. Each names its unit and its reason.
const (
	// MaxPathBytes is the longest path, as PATH_MAX on Linux.
	MaxPathBytes = 4096
	// MaxNameBytes is the longest component of a path, as NAME_MAX on Linux.
	MaxNameBytes = 255
	// MaxReplicas is the most replicas a file may ask for; beyond it a chain's latency outgrows its use.
	MaxReplicas = 8
	// DefaultReplicas is what a file gets that does not ask. Source: GFS 2.3
	DefaultReplicas = 3
	// MaxRecordBytes is the longest record append: a quarter of a chunk, so that padding wastes little. Source: GFS 3.3
	MaxRecordBytes = ChunkSize / 4
	// MaxPieceBytes is the most data one mutation on the wire carries. A longer write goes in several; a record
	// append never does, so it is also a whole record.
	MaxPieceBytes = MaxRecordBytes
	// StreamPieceBytes is the size in which a client cuts a stream: large enough for one actor turn a piece,
	// small enough that hops overlap.
	StreamPieceBytes = 512 << 10
	// MaxFileChunks bounds a file: 2^24 chunks are 1 PiB.
	MaxFileChunks = 1 << 24
	// MaxFileBytes is the longest file.
	MaxFileBytes = MaxFileChunks * ChunkSize

	// MaxMessageBytes bounds a NATS payload, as a NATS server does by default.
	MaxMessageBytes = 1 << 20
	// MaxInventoryPageBytes bounds one page of an inventory: half a NATS payload.
	MaxInventoryPageBytes = 512 << 10
	// InventoryPageEntries is the number of replicas in a page, at most about 40 bytes each.
	InventoryPageEntries = 8192
	// MaxWireMessageBytes bounds the protobuf of a data-plane frame: block checksums of 16 MiB are 1 KiB, a
	// digest of a chunk 4 KiB, an append table of 1024 writers well under 1 MiB.
	MaxWireMessageBytes = 1 << 20
	// MaxListEntries is the most entries in one page of a directory listing.
	MaxListEntries = 1024

	// MaxAppendWriters is the number of writers an append table remembers; past it the chunk is padded.
	MaxAppendWriters = 1024
	// AppendWindow is the number of latest appends remembered for each writer.
	AppendWindow = 64
	// AppendMemory is how long a writer's entries stay: longer than any client retries.
	AppendMemory = 10 * time.Minute

	// MaxSessions bounds the client sessions kept in the replicated state.
	MaxSessions = 65536
	// SessionWindow is the number of latest replies remembered for each client session.
	SessionWindow = 64
	// SessionTimeout ends a session that was silent this long; clients stop retrying well before.
	SessionTimeout = 15 * time.Minute

	// MaxInFlightRequests bounds what a master or chunkserver accepts and has not answered, beyond it ErrBusy.
	MaxInFlightRequests = 16384
	// MaxConnections bounds the data connections of a chunkserver.
	MaxConnections = 4096
	// MaxConnectionRequests bounds the requests in flight on one data connection.
	MaxConnectionRequests = 1024
	// MaxChunkPending bounds the mutations that wait at one primary, and MaxChunkPendingBytes their data, until they
	// are answered; beyond it ErrBusy. Connections are held back well before: see MaxChunkBufferBytes.
	MaxChunkPending      = 4096
	MaxChunkPendingBytes = 64 << 20
	// ClientWindowBytes is what a client's File keeps unacknowledged at most.
	ClientWindowBytes = 8 << 20

	// MaxBackups bounds the backups of the master's state that are fetched at once: each holds a picture of the state.
	MaxBackups = 4
	// BackupPieceBytes is the most of a backup that one message carries: half a NATS payload.
	BackupPieceBytes = 512 << 10

	// HandleReservation is how many chunk handles one log record reserves: a crash wastes at most these.
	HandleReservation = 1024
)

// Times. None is needed for safety; they decide how soon faults are noticed.
const (
	// HeartbeatInterval is the pause between a chunkserver's heartbeats.
	HeartbeatInterval = time.Second
	// HeartbeatTimeout is the silence after which a chunkserver counts as down.
	HeartbeatTimeout = 3 * time.Second
	// LeaseDuration is how long a lease lasts unless a heartbeat extends it. Source: GFS 3.1
	LeaseDuration = 60 * time.Second
	// CloseAfterIdle is how long an open chunk is without mutations before it is closed.
	CloseAfterIdle = 5 * time.Second
	// PrepareSilence is the silence after which a replica asked to Prepare is left out of a new attempt.
	PrepareSilence = 300 * time.Millisecond
	// PrepareBusyInterval is how often a replica still at work on Prepare says so, PrepareTimeout what it has in all.
	PrepareBusyInterval = 100 * time.Millisecond
	PrepareTimeout      = 5 * time.Second
	// MemberSilence is the silence after which a primary accuses a member that owes it an acknowledgement.
	MemberSilence = 500 * time.Millisecond
	// CommitTick is within what time an idle secondary hears its primary's commit length.
	CommitTick = 50 * time.Millisecond
	// LocationCacheTime is how long a client trusts a chunk's cached locations.
	LocationCacheTime = 60 * time.Second
	// MetricsInterval is the pause between a process's metrics messages.
	MetricsInterval = 5 * time.Second
	// BackupPatience is how long a backup waits for who fetches it to ask for the next piece.
	BackupPatience = 30 * time.Second
	// DefaultTrashRetention is how long a removed file can be undeleted. Source: GFS 4.4
	DefaultTrashRetention = 72 * time.Hour
)

// Bounds of a chunkserver's data plane.
const (
	// MaxReadBytes is the most data in one answer to a read: what is longer is asked for in several.
	MaxReadBytes = 1 << 20
	// MaxBatchBytes is the most data that mutations waiting at a primary are joined to for the way down the chain:
	// large enough that 1 KiB records cost little each, small enough that hops overlap. One longer record goes alone.
	MaxBatchBytes = 1 << 20
	// MaxBatchMutations bounds the mutations joined in one batch, for the message that lists them.
	MaxBatchMutations = 4096
	// SmallMutationBytes is the length from which a mutation's data go down the chain and to the disk from the buffer
	// in which they came; shorter ones are joined in one buffer first.
	SmallMutationBytes = BlockSize
	// PrimaryPipelineBatches is how many batches a primary hands to its disk ahead of time: what waits longer is
	// joined to larger batches.
	PrimaryPipelineBatches = 2
	// DurablePipelineBatches is the same where an acknowledgement waits for the disk: batches that come while an fsync runs
	// share the next.
	DurablePipelineBatches = 16
	// MaxChainWindowFrames and MaxChainWindowBytes bound what a member of a chain has received and not yet applied;
	// beyond it the member stops reading, and TCP holds the one before it back.
	MaxChainWindowFrames = 64
	MaxChainWindowBytes  = 8 << 20
	// MaxRequestBufferBytes bounds the data of requests that a chunkserver holds for clients, all connections
	// together: beyond it connections wait for each other.
	MaxRequestBufferBytes = 256 << 20
	// MaxChunkBufferBytes bounds the same for one chunk: beyond it the connections that bring more for it are not read
	// on, and TCP holds their clients back. A refusal would make them send it all again.
	MaxChunkBufferBytes = 32 << 20
	// MaxConnectionBytes bounds the same for one connection, but for one request.
	MaxConnectionBytes = 32 << 20
	// MaxPositionBytes bounds the pushed data that a chunkserver keeps for mutations not heard of yet, counted apart for
	// each position in the chains that brought them: data at one position never wait for room that others have taken, so
	// that chains which cross cannot wait for each other. A piece in flight of 128 clients.
	MaxPositionBytes = 64 << 20
	// MaxPushTargets bounds the servers to which one connection's pushes are passed on.
	MaxPushTargets = 64
	// JoinBlocks is from how many missing blocks on a replica is not let join: what is missing is fetched while the
	// chunk's mutations wait. Source: semantics 5
	JoinBlocks = 16
	// MaxServerJoins bounds the replicas that one chunkserver brings up to date at once.
	MaxServerJoins = 2
	// CopyBytesPerSecond is how fast a chunkserver copies for all of them together.
	CopyBytesPerSecond = 64 << 20
	// MaxCloseBatch bounds the chunks that are synced and unmarked together.
	MaxCloseBatch = 256
)

// Times of the data plane. None is needed for safety.
const (
	// BusyInterval is how often a member that owes acknowledgements says that it is alive.
	BusyInterval = 100 * time.Millisecond
	// FrameTimeout is what a peer has for a frame that it has begun, besides a second for each FrameRateBytes.
	FrameTimeout   = 10 * time.Second
	FrameRateBytes = 1 << 20
	// PushPatience is how long pushed data wait for room before they are refused: they can come in order.
	PushPatience = 300 * time.Millisecond
	// PushSilence is how long a server that has pushed data may be silent for each server that they go on to.
	PushSilence = time.Second
	// PushLifetime is how long pushed data are kept for a mutation that does not come: as long as a client waits on a
	// connection on which nothing moves.
	PushLifetime = 15 * time.Second
	// PullTimeout is what a member has to get pushed data from its primary that it lacks.
	PullTimeout = 2 * time.Second
	// ReportInterval is the pause between a primary's complaints while the master has not changed anything.
	ReportInterval = time.Second
	// MutationPatience is how long a mutation waits for a configuration in which it can be committed.
	MutationPatience = 10 * time.Second
	// CloneTimeout is what a learner has to come close to a member: a chunk at a quarter of CopyBytesPerSecond, twice.
	CloneTimeout = 10 * time.Second
	// JoinTimeout is what a joiner has under Prepare; the chunk's mutations wait for it.
	JoinTimeout = 2 * time.Second
	// ReplicationDelay is how long a chunkserver is missing before others get replicas in the place of its own.
	ReplicationDelay = time.Minute
	// OrphanSilence is the silence of all masters after which a chunkserver flags its answers.
	OrphanSilence = 5 * time.Second
)
