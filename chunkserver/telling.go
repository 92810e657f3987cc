package chunkserver

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cairnfs/cairn/actors/bus"
	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// What a chunkserver tells the master and whoever monitors, besides heartbeats.

const (
	// tellTimeout is what the master has to take a close, and reportTimeout what it has to take a report: a primary's clients
	// wait meanwhile, and may reach it themselves.
	tellTimeout   = time.Second
	reportTimeout = gfs.PrepareSilence
	// closeTries is how often a close is told before it is left to the master to find out.
	closeTries = 5
)

// report tells the master of a fault, once; whoever cares repeats it. It never waits; failed hears that the report was
// not taken, and may be nil.
func (cs *Chunkserver) report(r *pb.Report, failed func(error)) {
	cs.around.AskAsync(bus.Call{Subject: cs.subjects.Master(messages.OpReport), Request: r, Total: reportTimeout},
		func(answer bus.Answer) (done bool) {
			err := answer.Decode(&pb.ReportReply{})
			if err == nil {
				return true
			}
			cs.log.WithError(err).WithField("chunk", gfs.ChunkHandle(r.Handle).String()).Debug("report not taken")
			if failed != nil {
				failed(err)
			}
			return true
		})
}

// recordClose tells the master that every member of a chunk is equal, synced and unmarked. If it cannot be told, the
// chunk stays open in its log, and it will look after it by itself.
func (cs *Chunkserver) recordClose(request *pb.CloseRequest) {
	cs.network.Go(func() {
		log := cs.log.WithFields(logrus.Fields{"chunk": gfs.ChunkHandle(request.Handle).String(), "version": gfs.Version(request.Version).String()})
		for range closeTries {
			ctx, cancel := cs.around.WithTimeout(cs.ctx, tellTimeout)
			err := cs.around.Ask(ctx, cs.subjects.Master(messages.OpCloseChunk), request, &pb.CloseReply{})
			cancel()
			switch code := gfs.CodeOf(err); {
			case err == nil:
				log.Debug("chunk closed")
				return
			case code == gfs.CodeConflict || code == gfs.CodeNotExist || cs.ctx.Err() != nil:
				log.WithError(err).Debug("close refused")
				return
			}
			if cs.around.Pause(cs.ctx, tellTimeout) != nil {
				return
			}
		}
		log.Warn("close not recorded")
	})
}

// counters count since the process began, besides those of the data plane.
type counters struct {
	corrupt atomic.Int64
}

// Metrics are a server's counters at one moment, and the JSON of metrics.chunkserver.<id>. Names end in their unit; what
// has none is a number. Totals count since the process began.
type Metrics struct {
	Server        string `json:"server"`
	Chunks        int    `json:"chunks"`
	ChunksActive  int    `json:"chunks_active"`
	Leases        int    `json:"leases"`
	CapacityBytes int64  `json:"capacity_bytes"`
	UsedBytes     int64  `json:"used_bytes"`
	FreeBytes     int64  `json:"free_bytes"`
	InFlight      int    `json:"in_flight"`
	Connections   int64  `json:"connections_total"`
	Malformed     int64  `json:"malformed_total"`
	Reads         int64  `json:"reads_total"`
	ReadBytes     int64  `json:"read_bytes_total"`
	SendfileBytes int64  `json:"sendfile_bytes_total"`
	Mutations     int64  `json:"mutations_total"`
	MutationBytes int64  `json:"mutation_bytes_total"`
	ChainFrames   int64  `json:"chain_frames_total"`
	ChainBytes    int64  `json:"chain_bytes_total"`
	Pushes        int64  `json:"pushes_total"`
	PushBytes     int64  `json:"push_bytes_total"`
	References    int64  `json:"references_total"`
	Pulls         int64  `json:"pulls_total"`
	CorruptBlocks int64  `json:"corrupt_blocks_total"`
	Orphaned      bool   `json:"orphaned"`
}

// Metrics is the server's counters at this moment. It waits for nobody.
func (cs *Chunkserver) Metrics() Metrics {
	n := cs.server.Counters()
	m := Metrics{
		Server: string(cs.ID()), Chunks: cs.store.Len(), ChunksActive: cs.chunks.len(), Leases: cs.leases.len(),
		InFlight: cs.server.InFlight(), Connections: n.Connections.Load(), Malformed: n.Malformed.Load(),
		Reads: n.Reads.Load(), ReadBytes: n.ReadBytes.Load(), SendfileBytes: n.SendfileBytes.Load(),
		Mutations: n.Mutations.Load(), MutationBytes: n.MutationBytes.Load(), ChainFrames: n.ChainFrames.Load(),
		ChainBytes: n.ChainBytes.Load(), Pushes: n.Pushes.Load(), PushBytes: n.PushBytes.Load(),
		References: n.References.Load(), Pulls: n.Pulls.Load(), CorruptBlocks: cs.counters.corrupt.Load(), Orphaned: cs.orphaned(),
	}
	m.CapacityBytes, m.UsedBytes, m.FreeBytes = cs.store.Space()
	return m
}

// publishMetrics publishes a snapshot for whoever listens.
func (cs *Chunkserver) publishMetrics() {
	if err := cs.around.PublishJSON(cs.subjects.Metrics("chunkserver", string(cs.ID())), cs.Metrics()); err != nil {
		cs.log.WithError(err).Debug("metrics not published")
	}
}

// corruptReports holds back repeated complaints about the same replica: every read of a corrupt block finds it anew.
type corruptReports struct {
	mu   sync.Mutex
	told map[gfs.ChunkHandle]time.Time
}

const (
	corruptPause = 10 * time.Second
	maxCorrupt   = 1024
)

// due reports whether a corrupt replica is to be told of now.
func (r *corruptReports) due(handle gfs.ChunkHandle, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.told[handle]; ok && now.Sub(last) < corruptPause {
		return false
	}
	if r.told == nil || len(r.told) >= maxCorrupt {
		r.told = make(map[gfs.ChunkHandle]time.Time)
	}
	r.told[handle] = now
	return true
}

// event tells whoever monitors of a replica, in the form that the master's events have. It is lost if nobody listens.
func (cs *Chunkserver) event(kind string, handle gfs.ChunkHandle, detail string) {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(&pb.Event{
		Kind: kind, TimeUnixNano: cs.now().UnixNano(), Cluster: cs.cfg.Cluster, Server: string(cs.ID()), Chunk: handle.String(), Detail: detail,
	})
	if err == nil {
		err = cs.around.PublishJSON(cs.subjects.Event(kind), json.RawMessage(data))
	}
	if err != nil {
		cs.log.WithError(err).Debug("event not published")
	}
}

// tellTorn tells whoever monitors that a block may hold a part of a mutation that was never acknowledged.
func (cs *Chunkserver) tellTorn(handle gfs.ChunkHandle, block uint32) {
	detail := fmt.Sprintf("block %d: a mutation was cut short there, and no other member has it: it may be there in part", block)
	cs.log.WithFields(logrus.Fields{"chunk": handle.String(), "detail": detail}).Error("block recomputed")
	cs.event(messages.EventChunkSuspect, handle, detail)
}

// tellCorrupt tells the master and whoever monitors of a replica whose bytes do not match their checksums, and has the
// chunk's actor look at it.
func (cs *Chunkserver) tellCorrupt(handle gfs.ChunkHandle, detail string) {
	cs.counters.corrupt.Add(1)
	if !cs.corrupt.due(handle, cs.now()) {
		return
	}
	cs.log.WithFields(logrus.Fields{"chunk": handle.String(), "detail": detail}).Error("replica corrupt")
	cs.chunks.send(handle, routed((*chunk).onCorrupt))
	cs.report(&pb.Report{
		Handle: uint64(handle), Reporter: string(cs.ID()), Accused: string(cs.ID()), Kind: pb.Report_CORRUPT, Detail: detail,
	}, nil)
	cs.event(messages.EventChunkCorrupt, handle, detail)
}
