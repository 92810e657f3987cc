package top

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/cairnfs/cairn/clientlib"
	"github.com/cairnfs/cairn/messages/gfs"
)

const (
	// maxProcesses bounds the processes whose metrics are remembered.
	maxProcesses = 4096
	// maxEvents bounds the latest events that are remembered.
	maxEvents = 128
	// freshFor is how long metrics count: two may be lost.
	freshFor = 3*gfs.MetricsInterval + gfs.MetricsInterval/2
)

// State is what the master told at one moment, or the error with which it did not.
type State struct {
	Space   clientlib.FSInfo
	Master  clientlib.MasterStatus
	Servers []clientlib.ServerStatus
	Err     error // the rest is then as of the last good answer
}

// View remembers what the view shows. The zero value is ready. It is not safe for concurrent use.
type View struct {
	state   State
	known   bool // state has been set without an error
	metrics map[process]pair
	events  []clientlib.Event // the oldest first
}

type process struct{ role, id string }

// pair is the last two metrics of a process.
type pair struct{ before, last clientlib.Metrics }

// SetState takes in an answer of the master. An error keeps what was known before.
func (v *View) SetState(s State) {
	if s.Err != nil {
		v.state.Err = s.Err
		return
	}
	v.state, v.known = s, true
}

// AddMetrics takes in a process's metrics.
func (v *View) AddMetrics(m clientlib.Metrics) {
	if v.metrics == nil {
		v.metrics = make(map[process]pair)
	}
	key := process{m.Role, m.ID}
	old, known := v.metrics[key]
	if !known && len(v.metrics) >= maxProcesses {
		for other, p := range v.metrics {
			if m.Time.Sub(p.last.Time) > freshFor {
				delete(v.metrics, other)
			}
		}
		if len(v.metrics) >= maxProcesses {
			return
		}
	}
	v.metrics[key] = pair{before: old.last, last: m}
}

// AddEvent takes in an event.
func (v *View) AddEvent(e clientlib.Event) {
	if len(v.events) == maxEvents {
		v.events = slices.Delete(v.events, 0, 1)
	}
	v.events = append(v.events, e)
}

// value is a metric of now, false if none is fresh.
func (p pair) value(name string, now time.Time) (float64, bool) {
	value, ok := p.last.Values[name]
	return value, ok && now.Sub(p.last.Time) <= freshFor
}

// rate is a counter's growth a second, false if it is not known: no two metrics, or a process that began anew.
func (p pair) rate(name string, now time.Time) (float64, bool) {
	last, ok := p.value(name, now)
	before, known := p.before.Values[name]
	seconds := p.last.Time.Sub(p.before.Time).Seconds()
	if !ok || !known || seconds <= 0 || last < before {
		return 0, false
	}
	return (last - before) / seconds, true
}

// Snapshot is all that the view shows but the events, for programs. A rate or load that is not known is absent.
type Snapshot struct {
	Time    time.Time        `json:"time"`
	Cluster string           `json:"cluster"`
	Error   string           `json:"error,omitempty"` // the master did not answer: the rest is old
	Master  MasterSnapshot   `json:"master"`
	Servers []ServerSnapshot `json:"servers"`

	Files           int64 `json:"files"`
	Directories     int64 `json:"directories"`
	Chunks          int64 `json:"chunks"`
	UnderReplicated int64 `json:"under_replicated"`
	Corrupt         int64 `json:"corrupt"`
	Missing         int64 `json:"missing"`
	CapacityBytes   int64 `json:"capacity_bytes"`
	UsedBytes       int64 `json:"used_bytes"`
	FreeBytes       int64 `json:"free_bytes"`
}

// MasterSnapshot is the acting master.
type MasterSnapshot struct {
	ID                 string   `json:"id"`
	Epoch              uint32   `json:"epoch"`
	RequestsPerSecond  *float64 `json:"requests_per_second,omitempty"`
	MutationsPerSecond *float64 `json:"mutations_per_second,omitempty"`
	LeasesHeld         *float64 `json:"leases,omitempty"`
	LogBytes           *float64 `json:"log_bytes,omitempty"`
	HeapBytes          *float64 `json:"heap_bytes,omitempty"`
}

// ServerSnapshot is one chunkserver.
type ServerSnapshot struct {
	ID                  string   `json:"id"`
	Rack                string   `json:"rack"`
	Up                  bool     `json:"up"`
	LastHeardMS         int64    `json:"last_heard_ms"`
	CapacityBytes       int64    `json:"capacity_bytes"`
	UsedBytes           int64    `json:"used_bytes"`
	FreeBytes           int64    `json:"free_bytes"`
	Chunks              int64    `json:"chunks"`
	Leases              int64    `json:"leases"`
	InFlight            *float64 `json:"in_flight,omitempty"`
	ReadBytesPerSecond  *float64 `json:"read_bytes_per_second,omitempty"`
	WriteBytesPerSecond *float64 `json:"write_bytes_per_second,omitempty"` // as primary and as secondary
	MutationsPerSecond  *float64 `json:"mutations_per_second,omitempty"`
}

// Snapshot is the view at a time. Chunkservers that are down come first, then in the order of racks and ids.
func (v *View) Snapshot(cluster string, now time.Time) Snapshot {
	known := func(value float64, ok bool) *float64 {
		if !ok {
			return nil
		}
		return &value
	}
	s := v.state
	m := v.metrics[process{"master", s.Master.ID}]
	out := Snapshot{
		Time: now, Cluster: cluster, Servers: []ServerSnapshot{},
		Master: MasterSnapshot{
			ID: s.Master.ID, Epoch: uint32(s.Master.Epoch),
			RequestsPerSecond: known(m.rate("requests_total", now)), MutationsPerSecond: known(m.rate("mutations_total", now)),
			LeasesHeld: known(m.value("leases", now)), LogBytes: known(m.value("log_bytes", now)), HeapBytes: known(m.value("heap_bytes", now)),
		},
		Files: s.Space.Files, Directories: s.Space.Directories, Chunks: s.Space.Chunks,
		UnderReplicated: s.Space.UnderReplicated, Corrupt: s.Space.Corrupt, Missing: s.Space.Missing,
		CapacityBytes: s.Space.CapacityBytes, UsedBytes: s.Space.UsedBytes, FreeBytes: s.Space.FreeBytes,
	}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	for _, server := range s.Servers {
		m := v.metrics[process{"chunkserver", string(server.ID)}]
		out.Servers = append(out.Servers, ServerSnapshot{
			ID: string(server.ID), Rack: server.Rack, Up: server.Up, LastHeardMS: server.LastHeard.Milliseconds(),
			CapacityBytes: server.CapacityBytes, UsedBytes: server.UsedBytes, FreeBytes: server.FreeBytes,
			Chunks: server.Chunks, Leases: server.Leases,
			InFlight: known(m.value("in_flight", now)), ReadBytesPerSecond: known(m.rate("read_bytes_total", now)),
			WriteBytesPerSecond: known(written(m, now)), MutationsPerSecond: known(m.rate("mutations_total", now)),
		})
	}
	slices.SortFunc(out.Servers, func(a, b ServerSnapshot) int {
		if a.Up != b.Up {
			if b.Up {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Rack, b.Rack), strings.Compare(a.ID, b.ID))
	})
	return out
}

// written is what a chunkserver takes in: from clients as primary, from its predecessor in the chain as secondary.
func written(m pair, now time.Time) (float64, bool) {
	primary, ok := m.rate("mutation_bytes_total", now)
	secondary, chained := m.rate("chain_bytes_total", now)
	return primary + secondary, ok && chained
}
