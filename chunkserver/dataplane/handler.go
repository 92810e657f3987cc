package dataplane

import (
	"github.com/cairnfs/cairn/chunkserver/store"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// Handler is what a server hands requests to. Its methods are called on the goroutines of connections, several at
// once, and must not wait: what takes time answers later, from any goroutine.
type Handler interface {
	// Replica finds a replica that a client wants to read, and says in which version, if any, the end of the
	// replica's data is the end of the chunk: that of which this server is the primary, or of a closed chunk.
	Replica(gfs.ChunkHandle) (replica *store.Replica, endKnownIn gfs.Version, err error)
	// Orphaned reports whether no master was heard for gfs.OrphanSilence.
	Orphaned() bool
	// Corrupt is told of a replica whose bytes failed their checksum in a read.
	Corrupt(handle gfs.ChunkHandle, detail string)

	// Mutate takes over m and answers it once.
	Mutate(m *Mutation)
	// Digest answers with what tells replicas apart, and with the blocks and the table that the request names, nil if
	// it names none. reply takes over data; where there are any it waits for the peer to take them.
	Digest(request *pb.Digest, reply func(answer *pb.DigestReply, data *Buffer))
	// Patch takes over the blocks of a patch, nil if there are none.
	Patch(request *pb.Patch, blocks *Buffer, reply func(error))
	// Prepare takes an order of the master's that another server passes on.
	Prepare(order *pb.PrepareOrder, reply func(*pb.PrepareReply, error))
	// OpenChain takes a stream that a predecessor opens. The sink hears what comes down it, in order, and last Lost.
	OpenChain(open *pb.ChainOpen, up *Upstream) ChainSink
}

// ChainSink hears what comes down a chain stream. Its methods are called one at a time and must not wait.
type ChainSink interface {
	// Apply takes over a frame of mutations, whose data match their checksums. Releasing it makes room for more.
	Apply(a *Apply)
	// Tick is the primary's commit length.
	Tick(commitLength int64)
	// Close asks to end mutation in this version; answered with Upstream.Closed.
	Close(request *pb.ChainClose)
	// Lost is called once, when the stream has ended for whatever reason.
	Lost(err error)
}
