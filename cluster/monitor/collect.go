package monitor

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnfs/cairn/chunkserver"
	"github.com/cairnfs/cairn/master"
)

// kind is what a metric's name says of it.
func kind(name string) prometheus.ValueType {
	if strings.HasSuffix(name, "_total") {
		return prometheus.CounterValue
	}
	return prometheus.GaugeValue
}

// masters collects the counters of the masters of this process. Its metrics are whatever master.Metrics has, so it
// describes none beforehand.
type masters func() []*master.Master

// Describe implements prometheus.Collector.
func (masters) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m masters) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askPatience)
	defer cancel()
	for _, one := range m() {
		metrics, err := one.Metrics(ctx)
		if err != nil {
			out <- prometheus.NewInvalidMetric(prometheus.NewDesc("cairn_master", "The master's counters.", nil, nil), err)
			continue
		}
		for name, value := range metrics.Values {
			if name == "goroutines" || name == "heap_bytes" {
				continue // go_* tell them of the process
			}
			desc := prometheus.NewDesc("cairn_master_"+name, masterHelp(name), []string{"master"}, nil)
			out <- prometheus.MustNewConstMetric(desc, kind(name), value, metrics.Id)
		}
	}
}

func masterHelp(name string) string {
	help := map[string]string{
		"acting":                 "1 if this is the acting master.",
		"epoch":                  "The epoch in which it acts.",
		"files":                  "Files, those in the trash included.",
		"directories":            "Directories.",
		"chunks":                 "Chunks that files hold.",
		"sessions":               "Sessions of clients.",
		"trash":                  "Removed files that can be brought back.",
		"chunkservers":           "Chunkservers that were heard of.",
		"chunkservers_up":        "Chunkservers that are heard.",
		"replicas":               "Replicas that chunkservers reported.",
		"leases":                 "Leases that are held.",
		"requests_total":         "Requests of clients.",
		"failures_total":         "Requests of clients that were refused or failed.",
		"mutations_total":        "Changes of the name space that clients asked for.",
		"reads_total":            "Reads of the name space.",
		"lease_requests_total":   "Requests for the primary of a chunk.",
		"allocations_total":      "Chunks that were allocated.",
		"heartbeats_total":       "Heartbeats of chunkservers.",
		"orders_total":           "Orders to chunkservers.",
		"orders_failed_total":    "Orders to chunkservers that failed.",
		"replicas_deleted_total": "Replicas that no file needed and that chunkservers deleted.",
		"log_records_total":      "Records of the operation log that were written.",
		"log_bytes":              "Bytes of the operation log since its last checkpoint.",
		"checkpoints_total":      "Checkpoints that were written.",
	}
	if text, ok := help[name]; ok {
		return text
	}
	return "The master's " + strings.ReplaceAll(name, "_", " ") + "."
}

// chunkservers collects the counters of the chunkservers of this process.
type chunkservers func() []*chunkserver.Chunkserver

// chunkserverMetric is one counter of a chunkserver.
type chunkserverMetric struct {
	name, help string
	value      func(*chunkserver.Metrics) int64
}

func chunkserverMetrics() []chunkserverMetric {
	return []chunkserverMetric{
		{"chunks", "Replicas that are stored.", func(m *chunkserver.Metrics) int64 { return int64(m.Chunks) }},
		{"chunks_active", "Chunks that have an actor.", func(m *chunkserver.Metrics) int64 { return int64(m.ChunksActive) }},
		{"leases", "Chunks of which this server is the primary.", func(m *chunkserver.Metrics) int64 { return int64(m.Leases) }},
		{"capacity_bytes", "What the disks may take.", func(m *chunkserver.Metrics) int64 { return m.CapacityBytes }},
		{"used_bytes", "What replicas take.", func(m *chunkserver.Metrics) int64 { return m.UsedBytes }},
		{"free_bytes", "What the disks can still take.", func(m *chunkserver.Metrics) int64 { return m.FreeBytes }},
		{"in_flight", "Requests for data that are under way.", func(m *chunkserver.Metrics) int64 { return int64(m.InFlight) }},
		{"connections_total", "Data connections that were accepted.", func(m *chunkserver.Metrics) int64 { return m.Connections }},
		{"malformed_total", "Data connections that were closed for what they said.", func(m *chunkserver.Metrics) int64 { return m.Malformed }},
		{"reads_total", "Reads.", func(m *chunkserver.Metrics) int64 { return m.Reads }},
		{"read_bytes_total", "Bytes read.", func(m *chunkserver.Metrics) int64 { return m.ReadBytes }},
		{"sendfile_bytes_total", "Of the bytes read, those that never left the kernel.", func(m *chunkserver.Metrics) int64 { return m.SendfileBytes }},
		{"mutations_total", "Writes and record appends that clients sent.", func(m *chunkserver.Metrics) int64 { return m.Mutations }},
		{"mutation_bytes_total", "Bytes that clients wrote and appended.", func(m *chunkserver.Metrics) int64 { return m.MutationBytes }},
		{"chain_frames_total", "Frames that came from the predecessor in a chain.", func(m *chunkserver.Metrics) int64 { return m.ChainFrames }},
		{"chain_bytes_total", "Bytes that came from the predecessor in a chain.", func(m *chunkserver.Metrics) int64 { return m.ChainBytes }},
		{"pushes_total", "Pieces of data that came ahead of their mutation.", func(m *chunkserver.Metrics) int64 { return m.Pushes }},
		{"push_bytes_total", "Bytes that came ahead of their mutation.", func(m *chunkserver.Metrics) int64 { return m.PushBytes }},
		{"references_total", "Of the mutations, those whose data had come ahead.", func(m *chunkserver.Metrics) int64 { return m.References }},
		{"pulls_total", "Pieces of pushed data that another member lacked.", func(m *chunkserver.Metrics) int64 { return m.Pulls }},
		{"corrupt_blocks_total", "Blocks found not to match their checksums.", func(m *chunkserver.Metrics) int64 { return m.CorruptBlocks }},
		{"orphaned", "1 if no master was heard for 5 s.", func(m *chunkserver.Metrics) int64 {
			if m.Orphaned {
				return 1
			}
			return 0
		}},
	}
}

func (m chunkserverMetric) desc() *prometheus.Desc {
	return prometheus.NewDesc("cairn_chunkserver_"+m.name, m.help, []string{"server"}, nil)
}

// Describe implements prometheus.Collector.
func (chunkservers) Describe(out chan<- *prometheus.Desc) {
	for _, m := range chunkserverMetrics() {
		out <- m.desc()
	}
}

// Collect implements prometheus.Collector.
func (c chunkservers) Collect(out chan<- prometheus.Metric) {
	all := chunkserverMetrics()
	for _, cs := range c() {
		now := cs.Metrics()
		for _, m := range all {
			out <- prometheus.MustNewConstMetric(m.desc(), kind(m.name), float64(m.value(&now)), now.Server)
		}
	}
}
