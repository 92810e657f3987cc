package registry

import (
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/cairnfs/cairn/master/placement"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// maxText bounds addresses and rack labels in bytes.
const maxText = 255

var serverID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// CheckServer checks a server as it came in a message: id of 16 hex digits, address HOST:PORT, printable rack.
// The error is CodeInvalid.
func CheckServer(s *pb.Server) (placement.Server, error) {
	id, address, rack := s.GetId(), s.GetAddress(), s.GetRack()
	if !serverID.MatchString(id) {
		return placement.Server{}, gfs.Errorf(gfs.CodeInvalid, "server id %.32q: want 16 hex digits", id)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || len(address) > maxText {
		return placement.Server{}, gfs.Errorf(gfs.CodeInvalid, "address %.64q of server %s: want HOST:PORT", address, id)
	}
	if len(rack) > maxText || strings.ContainsFunc(rack, unicode.IsControl) {
		return placement.Server{}, gfs.Errorf(gfs.CodeInvalid, "rack %.64q of server %s: want at most %d printable bytes", rack, id, maxText)
	}
	return placement.Server{ID: gfs.ServerID(id), Address: address, Rack: rack}, nil
}

// Held is a lease that a chunkserver says it holds as primary.
type Held struct {
	Handle      gfs.ChunkHandle
	Version     gfs.Version
	Server      placement.Server
	Incarnation gfs.Incarnation
	Extend      bool               // mutations went on since the last heartbeat
	Members     []placement.Server // chain order, primary first; nil when one of them was never heard of
}

// Heard is what comes of a heartbeat.
type Heard struct {
	SendInventory bool              // the reply asks for a full inventory
	Extended      []gfs.ChunkHandle // the leases that the reply extends
	CameUp        bool              // the server was down or unknown
	Replaced      gfs.Incarnation   // the process that this one replaces, 0 if none: its leases are void
	Held          []Held            // every lease that the server says it holds, and those of others that wait for this one to be known
}

// Heartbeat records a heartbeat, whose leases it keeps until the next one. Errors are CodeInvalid for one that no chunkserver sends, CodeWrongIncarnation for
// one of a process that another has replaced, CodeBusy for one server too many.
func (r *Registry) Heartbeat(hb *pb.Heartbeat, now time.Time) (Heard, error) {
	described, err := CheckServer(hb.GetServer())
	if err != nil {
		return Heard{}, err
	}
	if err := checkHeartbeat(hb); err != nil {
		return Heard{}, err
	}
	s, isNew, err := r.register(described)
	if err != nil {
		return Heard{}, err
	}
	var heard Heard
	incarnation := gfs.Incarnation(hb.GetIncarnation())
	// A process that was replaced is refused as long as the other one is heard. If that falls silent, it was the other
	// way round: the last heartbeat of a process that had ended came after the first one of this.
	if incarnation == s.previous && s.up {
		return Heard{}, gfs.Errorf(gfs.CodeWrongIncarnation, "server %s: this process was replaced by another one with the same data; stop one of them", s.ID)
	}
	if incarnation != s.incarnation {
		heard.Replaced = s.incarnation
		s.previous, s.incarnation = s.incarnation, incarnation
		s.sequence, s.inventoried, s.wanted, s.receiving, s.unreached = 0, false, true, inventory{}, time.Time{}
	}
	if s.sequence != 0 && hb.GetSequence() > s.sequence+1 {
		s.wanted = true // a slice was lost
	}
	old := hb.GetSequence() <= s.sequence
	heard.CameUp = !s.up
	s.Server, s.up, s.heard = described, true, now
	if !old {
		s.sequence = hb.GetSequence()
		s.capacity, s.used, s.free = hb.GetCapacityBytes(), hb.GetUsedBytes(), hb.GetFreeBytes()
		s.chunks, s.draining = hb.GetChunks(), hb.GetDraining()
		if slice := hb.GetSlice(); slice != nil {
			r.applyPage(s, slice, gfs.ChunkHandle(slice.GetLastHandle()))
		}
	}
	heard.SendInventory = s.wanted && !s.receiving.active(now)
	if isNew {
		r.completeHeld(s.ID, &heard)
	}
	r.hearLeases(s, hb.GetLeases(), &heard)
	return heard, nil
}

// register finds a server, or makes it known: then it is new.
func (r *Registry) register(described placement.Server) (s *server, isNew bool, err error) {
	if index, known := r.byID[described.ID]; known {
		return r.servers[index], false, nil
	}
	if len(r.servers) >= MaxServers {
		return nil, false, gfs.Errorf(gfs.CodeBusy, "%d chunkservers are known, which is the most a cluster has: server %s is refused", MaxServers, described.ID)
	}
	s = &server{Server: described}
	r.byID[described.ID] = uint16(len(r.servers))
	r.servers = append(r.servers, s)
	return s, true, nil
}

// completeHeld tells again of the leases that others said they hold with member, which nobody had heard of until now: a
// primary can be adopted once all its members are known, and its next heartbeat may come after somebody wants the chunk.
func (r *Registry) completeHeld(member gfs.ServerID, heard *Heard) {
	for _, s := range r.servers {
		if !s.up || s.ID == member {
			continue
		}
		for _, l := range s.held {
			if !slices.Contains(l.GetMembers(), string(member)) {
				continue
			}
			if held := r.describe(s, l); held.Members != nil {
				heard.Held = append(heard.Held, held)
				r.noteMembers(held)
			}
		}
	}
}

func (r *Registry) hearLeases(s *server, leases []*pb.HeldLease, heard *Heard) {
	index := r.byID[s.ID]
	s.held = leases
	for _, l := range leases {
		handle, version := gfs.ChunkHandle(l.GetHandle()), gfs.Version(l.GetVersion())
		if granted, known := r.leases[handle]; known && l.GetExtend() && granted == (lease{version: version, server: index}) {
			heard.Extended = append(heard.Extended, handle)
		}
		held := r.describe(s, l)
		heard.Held = append(heard.Held, held)
		r.noteMembers(held)
	}
}

// noteMembers believes a primary about members of which nothing else was heard, so that a standby knows the replicas
// of open chunks before their holders' next inventories.
func (r *Registry) noteMembers(held Held) {
	if held.Handle >= r.limit {
		return
	}
	for _, m := range held.Members {
		index := r.byID[m.ID]
		if _, known := r.locations.get(held.Handle, index); !known {
			r.locations.set(held.Handle, entry{
				server: index, promised: held.Version, active: held.Version, state: gfs.ReplicaMember, marked: true,
			})
		}
	}
}

func (r *Registry) describe(s *server, l *pb.HeldLease) Held {
	return Held{
		Handle: gfs.ChunkHandle(l.GetHandle()), Version: gfs.Version(l.GetVersion()), Server: s.Server, Incarnation: s.incarnation,
		Extend: l.GetExtend(), Members: r.resolve(s.ID, l.GetMembers()),
	}
}

// LastHeld lists the leases that chunkservers which are up said they hold in their last heartbeats: for a standby
// that begins to act.
func (r *Registry) LastHeld() []Held {
	var held []Held
	for _, s := range r.servers {
		if s.up {
			for _, l := range s.held {
				held = append(held, r.describe(s, l))
			}
		}
	}
	return held
}

// resolve finds the servers of a chain that begins with primary, nil if one of them was never heard of.
func (r *Registry) resolve(primary gfs.ServerID, ids []string) []placement.Server {
	if len(ids) == 0 || gfs.ServerID(ids[0]) != primary {
		return nil
	}
	members := make([]placement.Server, 0, len(ids))
	for _, id := range ids {
		index, known := r.byID[gfs.ServerID(id)]
		if !known {
			return nil
		}
		members = append(members, r.servers[index].Server)
	}
	return members
}

func checkHeartbeat(hb *pb.Heartbeat) error {
	id := hb.GetServer().GetId()
	switch {
	case hb.GetIncarnation() == 0:
		return gfs.Errorf(gfs.CodeInvalid, "heartbeat of server %s without an incarnation", id)
	case hb.GetSequence() == 0:
		return gfs.Errorf(gfs.CodeInvalid, "heartbeat of server %s without a sequence: they run from 1", id)
	case hb.GetCapacityBytes() < 0 || hb.GetUsedBytes() < 0 || hb.GetFreeBytes() < 0:
		return gfs.Errorf(gfs.CodeInvalid, "heartbeat of server %s with a negative number of bytes", id)
	}
	for _, l := range hb.GetLeases() {
		if l.GetHandle() == 0 || l.GetVersion() == 0 || len(l.GetMembers()) > gfs.MaxReplicas {
			return gfs.Errorf(gfs.CodeInvalid, "heartbeat of server %s: lease on chunk %016x in version %d with %d members",
				id, l.GetHandle(), l.GetVersion(), len(l.GetMembers()))
		}
	}
	if slice := hb.GetSlice(); slice != nil {
		if slice.GetInventory() != 0 || slice.GetServer() != "" && slice.GetServer() != id {
			return gfs.Errorf(gfs.CodeInvalid, "heartbeat of server %s with a slice that is not its own", id)
		}
		return checkPage(slice)
	}
	return nil
}
