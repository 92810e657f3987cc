// Package clientlib is what applications import to use a Cairn cluster: files that feel like those of os and io,
// with contexts, record append and an io/fs view.
//
//	client, err := clientlib.Connect(ctx, "nats://127.0.0.1:4222")
//	if err != nil { … }
//	defer client.Close()
//	file, err := client.Create(ctx, "/logs/today")
//	offset, err := file.Append(ctx, []byte("one record, atomically, at least once"))
//
// # What it is
//
// Metadata requests go to the acting master over NATS (master.go), file data goes to and comes from chunkservers
// over raw TCP (dataconn.go). The client caches chunk locations (locations.go) and never file data, but for what is
// read ahead of a sequential reader.
//
// # State and invariants
//
//   - A File's mutations leave in the order of its calls, each chunk's over one connection at a time. After a fault
//     everything unacknowledged is sent again in the same order (window.go, stream.go).
//   - A record append carries (writer, sequence) and returns to the same chunk until that has given it an offset, or
//     has said "full" without one; only then does it go on to the next chunk. So a retry never leaves a duplicate.
//   - A namespace mutation carries (session, sequence), so that a retry takes effect once (session.go).
//   - No byte reaches the caller that does not match its checksum (read.go).
//   - The end of a file is concluded only from a replica that knows it.
//
// Nothing is durable in the client: what a File has queued is lost with the process. Write returns nil when data is
// queued; it is acknowledged, and on every replica, once Sync, Close or WriteAt returned nil. An acknowledged append
// has its offset. It outlives every process; power lost at all its replicas it outlives once Sync returned nil, or if the
// file was made with Synced. Sync returns ErrUnsyncedLost, once, if power was lost before.
//
// # Errors
//
// Errors are *fs.PathError or *os.LinkError around the sentinels of io/fs, syscall and this package; errors.Is
// decides. Retries happen inside: a call returns ErrUnavailable or ErrBusy only after its own, when nothing moved
// for WithTimeout. A call that ended after it was sent, by its context or for silence, matches ErrOutcomeUnknown.
//
// # What it does not do
//
// It does not lock files between clients, does not order the writes of different Files, and does not cache data.
package clientlib
