package messages

import (
	"regexp"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Subjects makes the NATS subjects of one cluster. The zero value is not usable; see NewSubjects.
// Source: architecture.md, NATS subjects
type Subjects struct{ prefix string }

var clusterName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// NewSubjects checks the cluster's name (1 to 64 letters, digits, - and _, so that it is one token of a subject).
func NewSubjects(cluster string) (Subjects, error) {
	if !clusterName.MatchString(cluster) {
		return Subjects{}, gfs.Errorf(gfs.CodeInvalid, "cluster name %q: want 1 to 64 letters, digits, - or _", cluster)
	}
	return Subjects{prefix: "cairn." + cluster + "."}, nil
}

// Master is where clients and chunkservers send the request named op; only the acting master answers.
func (s Subjects) Master(op string) string { return s.prefix + "master." + op }

// Shadow is where clients that accept stale answers send read-only requests.
func (s Subjects) Shadow(op string) string { return s.prefix + "shadow." + op }

// Heartbeat is where a chunkserver publishes its heartbeats; masters subscribe with HeartbeatAll.
func (s Subjects) Heartbeat(server gfs.ServerID) string {
	return s.prefix + "heartbeat." + string(server)
}

// HeartbeatAll matches every chunkserver's heartbeats.
func (s Subjects) HeartbeatAll() string { return s.prefix + "heartbeat.*" }

// Chunkserver is where the acting master sends an order to one chunkserver.
func (s Subjects) Chunkserver(server gfs.ServerID, command string) string {
	return s.prefix + "cs." + string(server) + "." + command
}

// Event is where monitoring events of one kind go, as JSON of pb.Event with the names of the .proto file.
func (s Subjects) Event(kind string) string { return s.prefix + "event." + kind }

// Metrics is where a process publishes its metrics: JSON of pb.Metrics from a master, of chunkserver.Metrics, which has
// the counters at the top, from a chunkserver.
func (s Subjects) Metrics(role, id string) string { return s.prefix + "metrics." + role + "." + id }

// The requests that a master serves: the last token of Master(op).
const (
	OpMutate      = "mutate"      // NamespaceMutation → NamespaceReply
	OpStat        = "stat"        // StatRequest → FileStatus
	OpList        = "list"        // ListRequest → ListReply
	OpStatFS      = "statfs"      // StatFSRequest → StatFSReply
	OpLocate      = "locate"      // LocateRequest → LocateReply
	OpLease       = "lease"       // LeaseRequest → ChunkLocation: a chunk to mutate
	OpReport      = "report"      // Report → ReportReply: a member or primary that fails, a corrupt replica
	OpCloseChunk  = "close"       // CloseRequest → CloseReply, from a primary
	OpServers     = "servers"     // ServersRequest → ServersReply
	OpInventory   = "inventory"   // InventoryPage → InventoryAck, from a chunkserver
	OpMasterState = "masterstate" // MasterStateRequest → MasterStateReply
	OpTrash       = "trash"       // TrashRequest → TrashReply
	OpGarbage     = "garbage"     // GarbageRequest → GarbageReply
	OpBackup      = "backup"      // BackupRequest → BackupReply
)

// The orders that a chunkserver obeys: the last token of Chunkserver(server, command).
const (
	CommandCreate  = "create"  // CreateOrder → OrderReply
	CommandPrepare = "prepare" // PrepareOrder → PrepareReply, perhaps several with busy set before the last
	CommandGrant   = "grant"   // GrantOrder → GrantReply
	CommandClone   = "clone"   // CloneOrder → CloneReply
	CommandClose   = "close"   // CloseOrder → OrderReply: the end is a CloseRequest
	CommandProbe   = "probe"   // ProbeOrder → ProbeReply
	CommandRelay   = "relay"   // RelayOrder → PrepareReply, as of the Prepare that is passed on
	CommandCopy    = "copy"    // CopyOrder → CopyReply
	CommandDelete  = "delete"  // DeleteOrder → DeleteReply
	CommandReport  = "report"  // InventoryOrder → OrderReply: send the full inventory
)

// The kinds of events.
const (
	EventMasterElected   = "master.elected"
	EventChunkserverUp   = "chunkserver.up"
	EventChunkserverDown = "chunkserver.down"
	EventLeaseGranted    = "lease.granted"
	EventReplicaJoined   = "replica.joined" // a stale or new replica has become a member
	EventChunkClosed     = "chunk.closed"
	EventChunkCorrupt    = "chunk.corrupt"
	EventChunkSuspect    = "chunk.suspect" // every replica lost its power or its disk: one of them was believed
	EventFileCreated     = "file.created"
	EventFileDeleted     = "file.deleted"
	EventGarbageHeld     = "garbage.held" // a chunkserver has so many unknown replicas that none is deleted there
)
