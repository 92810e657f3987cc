package clientlib

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
	"github.com/cairnfs/cairn/messages/pb"
)

const (
	// maxMonitorMessages bounds the monitoring messages that wait for a slow reader; what comes on top is lost.
	maxMonitorMessages = 4096
	// mastersQuiet is how long Masters waits for another master's answer.
	mastersQuiet = 250 * time.Millisecond
	// maxMasters bounds the answers that Masters takes.
	maxMasters = 64
)

// ServerStatus is what the master knows of a chunkserver.
type ServerStatus struct {
	Server
	Up                                  bool
	LastHeard                           time.Duration // since its last heartbeat
	CapacityBytes, UsedBytes, FreeBytes int64
	Chunks                              int64 // replicas that it holds
	Leases                              int64 // chunks of which it is the primary
}

// Servers describes the chunkservers that the master knows, in the order of their ids.
func (c *Client) Servers(ctx context.Context) ([]ServerStatus, error) {
	reply := &pb.ServersReply{}
	if err := c.ask(ctx, messages.OpServers, &pb.ServersRequest{}, reply); err != nil {
		return nil, pathError("servers", "/", err)
	}
	var all []ServerStatus
	for _, s := range reply.GetServers() {
		all = append(all, ServerStatus{
			Server: Server{ID: gfs.ServerID(s.GetServer().GetId()), Addr: s.GetServer().GetAddress(), Rack: s.GetServer().GetRack()},
			Up:     s.GetUp(), LastHeard: time.Duration(s.GetLastHeardMs()) * time.Millisecond,
			CapacityBytes: s.GetCapacityBytes(), UsedBytes: s.GetUsedBytes(), FreeBytes: s.GetFreeBytes(),
			Chunks: int64(s.GetChunks()), Leases: int64(s.GetLeases()),
		})
	}
	slices.SortFunc(all, func(a, b ServerStatus) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// ServerGarbage counts the replicas at a chunkserver that no file needs and that are still there.
type ServerGarbage struct {
	ID       gfs.ServerID
	Replicas int64  // all that the server has
	Orphaned int64  // of chunks that no file has
	Stale    int64  // stale or corrupt, of chunks with enough good ones
	Held     string // why nothing is deleted there until an operator confirms it; empty if it is being deleted
}

// Garbage lists the chunkservers with replicas that no file needs, in the order of their ids, as the master counted them
// a few seconds ago. If confirm names one of them, what it holds is deleted even where that is unexpectedly much, for an
// hour from now; fs.ErrNotExist if nothing is known of it.
func (c *Client) Garbage(ctx context.Context, confirm gfs.ServerID) ([]ServerGarbage, error) {
	reply := &pb.GarbageReply{}
	if err := c.ask(ctx, messages.OpGarbage, &pb.GarbageRequest{Confirm: string(confirm)}, reply); err != nil {
		return nil, pathError("garbage", "/", err)
	}
	var all []ServerGarbage
	for _, s := range reply.GetServers() {
		all = append(all, ServerGarbage{
			ID: gfs.ServerID(s.GetServer()), Replicas: int64(s.GetReplicas()), Orphaned: int64(s.GetOrphaned()),
			Stale: int64(s.GetStale()), Held: s.GetHeld(),
		})
	}
	return all, nil
}

// MasterStatus is what a master tells of itself. Of one that does not act only the ID and the Version are known.
type MasterStatus struct {
	ID           string
	Version      string // of its program
	Acting       bool
	Epoch        gfs.Epoch
	AppliedIndex uint64 // of the operation log
}

// ActingMaster describes the master that answers requests.
func (c *Client) ActingMaster(ctx context.Context) (MasterStatus, error) {
	reply := &pb.MasterStateReply{}
	if err := c.ask(ctx, messages.OpMasterState, &pb.MasterStateRequest{}, reply); err != nil {
		return MasterStatus{}, pathError("master", "/", err)
	}
	return MasterStatus{ID: reply.GetId(), Acting: true, Epoch: gfs.Epoch(reply.GetEpoch()), AppliedIndex: reply.GetAppliedIndex()}, nil
}

// Masters describes every master of the cluster that answers at this moment, in the order of their ids. It takes
// a quarter of a second, since nobody knows how many there are.
func (c *Client) Masters(ctx context.Context) ([]MasterStatus, error) {
	acting, err := c.ActingMaster(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]MasterStatus{acting.ID: acting}
	inbox := c.nats.NewInbox()
	answers, err := c.nats.SubscribeSync(inbox)
	if err != nil {
		return nil, pathError("masters", "/", c.monitorError(ctx, err))
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := c.nats.PublishRequest("$SRV.INFO.cairn-master", inbox, nil); err != nil {
		return nil, pathError("masters", "/", c.monitorError(ctx, err))
	}
	for range maxMasters {
		answer, err := c.nextMessage(ctx, answers, mastersQuiet)
		if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, pathError("masters", "/", err)
		}
		var info struct {
			Version   string            `json:"version"`
			Metadata  map[string]string `json:"metadata"`
			Endpoints []struct {
				Subject string `json:"subject"`
			} `json:"endpoints"`
		}
		if json.Unmarshal(answer.Data, &info) != nil || info.Metadata["id"] == "" {
			continue
		}
		for _, e := range info.Endpoints {
			if e.Subject == c.subjects.Master(messages.OpMutate) { // not another cluster's
				m := found[info.Metadata["id"]]
				m.ID, m.Version = info.Metadata["id"], info.Version
				found[m.ID] = m
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b MasterStatus) int { return cmp.Compare(a.ID, b.ID) }), nil
}

// Event is something that happened in the cluster. Fields that do not apply are empty.
type Event struct {
	Kind    string // as in messages: chunkserver.down, say
	Time    time.Time
	Server  string // chunkserver or master
	Chunk   string // handle, 16 hex digits
	Version string // epoch.attempt
	Path    string
	Detail  string
}

// Events hands out what happens in the cluster from now on. Nothing is kept for who does not listen, and a reader who
// does not keep up misses some. The iteration ends with ctx, whose error is the last pair, or with the client.
func (c *Client) Events(ctx context.Context) iter.Seq2[Event, error] {
	return monitor(ctx, c, c.subjects.Event(">"), func(tokens []string, data []byte) (Event, bool) {
		var wire struct {
			Time    string `json:"time_unix_nano"`
			Server  string `json:"server"`
			Chunk   string `json:"chunk"`
			Version string `json:"version"`
			Path    string `json:"path"`
			Detail  string `json:"detail"`
		}
		if json.Unmarshal(data, &wire) != nil {
			return Event{}, false
		}
		e := Event{Kind: strings.Join(tokens, "."), Time: time.Now(), Server: wire.Server, Chunk: wire.Chunk, Version: wire.Version, Path: wire.Path, Detail: wire.Detail}
		if at, err := strconv.ParseInt(wire.Time, 10, 64); err == nil && at > 0 {
			e.Time = time.Unix(0, at)
		}
		return e, true
	})
}

// Metrics is one process's counters at a moment; the names end in the unit, those of counters that only grow in _total.
type Metrics struct {
	Role   string // master or chunkserver
	ID     string
	Time   time.Time // of arrival
	Values map[string]float64
}

// Metrics hands out what the processes of the cluster publish of themselves every gfs.MetricsInterval, as Events does.
func (c *Client) Metrics(ctx context.Context) iter.Seq2[Metrics, error] {
	return monitor(ctx, c, c.subjects.Metrics("*", "*"), func(tokens []string, data []byte) (Metrics, bool) {
		fields := map[string]any{}
		if len(tokens) != 2 || json.Unmarshal(data, &fields) != nil {
			return Metrics{}, false
		}
		if values, ok := fields["values"].(map[string]any); ok {
			fields = values
		}
		m := Metrics{Role: tokens[0], ID: tokens[1], Time: time.Now(), Values: map[string]float64{}}
		for name, value := range fields {
			if number, ok := value.(float64); ok {
				m.Values[name] = number
			}
		}
		return m, true
	})
}

// monitor hands out what arrives on a subject of monitoring. Decode gets the subject's tokens behind the kind of message
// and says whether it understood.
func monitor[T any](ctx context.Context, c *Client, subject string, decode func(tokens []string, data []byte) (T, bool)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		fail := func(err error) { yield(none, c.monitorError(ctx, err)) }
		subscription, err := c.nats.SubscribeSync(subject)
		if err != nil {
			fail(err)
			return
		}
		defer func() { _ = subscription.Unsubscribe() }()
		if err := subscription.SetPendingLimits(maxMonitorMessages, maxMonitorMessages*1024); err != nil {
			fail(err)
			return
		}
		for {
			message, err := c.nextMessage(ctx, subscription, 0)
			if errors.Is(err, nats.ErrSlowConsumer) {
				c.log.WithField("subject", subject).Warn("monitoring messages lost")
				continue
			}
			if err != nil {
				fail(err)
				return
			}
			if value, ok := decode(strings.Split(message.Subject, ".")[3:], message.Data); ok && !yield(value, nil) {
				return
			}
		}
	}
}

// nextMessage waits for a message: for so long, 0 for as long as ctx and the client last.
func (c *Client) nextMessage(ctx context.Context, from *nats.Subscription, atMost time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if atMost > 0 {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, atMost)
		defer end()
	}
	stop := context.AfterFunc(c.life, cancel)
	defer stop()
	message, err := from.NextMsgWithContext(ctx)
	if err != nil && c.life.Err() != nil {
		err = errClientClosed()
	}
	return message, err
}

// monitorError is err as a caller understands it.
func (c *Client) monitorError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case c.life.Err() != nil || errors.Is(err, nats.ErrConnectionClosed):
		return errClientClosed()
	}
	return gfs.Errorf(gfs.CodeUnavailable, "monitoring over NATS at %s: %v", c.url, err)
}
