package master

import (
	"context"
	"runtime"
	"time"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/master/namespace"
	"github.com/cairnfs/cairn/master/registry"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

// publishMetrics publishes the counters until ctx ends.
func (m *Master) publishMetrics(ctx context.Context) {
	ticker := time.NewTicker(gfs.MetricsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if metrics, err := m.Metrics(ctx); err == nil {
				m.publishJSON(m.subjects.Metrics("master", m.id), metrics)
			}
		case <-ctx.Done():
			return
		}
	}
}

// namespaceCounts asks for the sizes of the state.
type namespaceCounts struct {
	reply actors.Reply[namespace.Counts]
}

func (c namespaceCounts) Do(s *namespaceShell) { c.reply.Ok(s.view().Counts()) }

// Metrics is the master's counters at this moment; the units are in the names. It waits for the actors, and ends
// with ctx at the latest.
func (m *Master) Metrics(ctx context.Context) (*pb.Metrics, error) {
	counts, err := actors.Ask(ctx, m.namespace, func(reply actors.Reply[namespace.Counts]) actors.Command[*namespaceShell] {
		return namespaceCounts{reply}
	})
	if err != nil {
		return nil, err
	}
	known, err := actors.Ask(ctx, m.registry, func(reply actors.Reply[registry.Totals]) actors.Command[*registryShell] {
		return totals{reply}
	})
	if err != nil {
		return nil, err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	log := m.oplog.Stats()
	values := map[string]float64{
		"acting": 0, "epoch": 0,
		"files": float64(counts.Files), "directories": float64(counts.Directories), "chunks": float64(counts.Chunks),
		"sessions": float64(counts.Sessions), "trash": float64(counts.Trash),
		"chunkservers": float64(known.Servers), "chunkservers_up": float64(known.Up), "replicas": float64(known.Replicas),
		"capacity_bytes": float64(known.Capacity), "used_bytes": float64(known.Used), "free_bytes": float64(known.Free),
		"leases": float64(known.LeasesHeld), "lease_actors": float64(m.counters.leaseActors.Load()),
		"requests_total": float64(m.counters.requests.Load()), "failures_total": float64(m.counters.failures.Load()),
		"mutations_total": float64(m.counters.mutations.Load()), "reads_total": float64(m.counters.reads.Load()),
		"lease_requests_total": float64(m.counters.leases.Load()), "allocations_total": float64(m.counters.allocations.Load()),
		"heartbeats_total": float64(m.counters.heartbeats.Load()),
		"orders_total":     float64(m.counters.ordersSent.Load()), "orders_failed_total": float64(m.counters.ordersFailed.Load()),
		"replicas_deleted_total": float64(m.counters.replicasDeleted.Load()),
		"log_applied":            float64(log.Applied), "log_records_total": float64(log.Records), "log_entries_total": float64(log.Entries),
		"log_bytes": float64(log.LogBytes), "checkpoints_total": float64(log.Checkpoints),
		"goroutines": float64(runtime.NumGoroutine()), "heap_bytes": float64(memory.HeapAlloc),
	}
	if p := m.acting.Load(); p != nil {
		values["acting"], values["epoch"] = 1, float64(p.epoch)
	}
	return &pb.Metrics{Role: "master", Id: m.id, TimeUnixNano: m.now().UnixNano(), Values: values}, nil
}
