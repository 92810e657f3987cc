package bus

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/messages/gfs"
)

// pendingBytes bounds what arrived at one subscription and was not handled yet: handlers only send to an actor, so
// this is what may pile up while the processor is busy. What exceeds it is dropped, and logged.
const pendingBytes = 64 << 20

// ServiceConfig describes a service. Monitoring shows Name (letters, digits, - and _), Version (as SemVer demands,
// "1.2.3"), Description and Metadata.
type ServiceConfig struct {
	Name        string
	Version     string
	Description string
	Metadata    map[string]string
	// Gate bounds the requests admitted and not yet finished over all endpoints. Required.
	Gate *actors.Gate
	// Answers, if not nil, is asked on each request's arrival: where it says no, the request is dropped in silence,
	// as a master that is not acting does. It must be quick and safe for concurrent use.
	Answers func() bool
}

// Endpoint is one kind of request.
type Endpoint struct {
	Name    string // in monitoring: letters, digits, - and _
	Subject string // may have wildcards
	// Queue, if not empty, is the queue group of which one member gets each request. Otherwise every subscriber
	// gets every request.
	Queue string
	// Always lets requests through also where ServiceConfig.Answers says no; the handler then mostly ignores them.
	Always bool
	// Handle gets each admitted request, one at a time. It must not wait, and the request must be finished, there
	// or later, exactly once.
	Handle func(*Request)
}

// Service is a running service.
type Service struct {
	conn    *Conn
	cfg     ServiceConfig
	counts  map[string]*counts // by endpoint; not changed after Serve
	stopped atomic.Bool
}

// counts is what an endpoint shows in the data field of its statistics, since requests are finished after the
// handler has returned.
type counts struct {
	replied, failed, busy, ignored atomic.Int64
}

// endpointData is the JSON of counts.
type endpointData struct {
	Replied  int64 `json:"replied"`
	Failed   int64 `json:"failed"`
	Busy     int64 `json:"busy"`
	Ignored  int64 `json:"ignored"`
	InFlight int   `json:"in_flight"` // of the service
	Limit    int   `json:"limit"`
}

// Serve registers a service and returns when the server has all its subscriptions, so that no later request finds
// nobody. It fails with ErrInvalid for names that are none and with ErrUnavailable if the connection is away.
func Serve(conn *Conn, cfg ServiceConfig, endpoints ...Endpoint) (*Service, error) {
	if cfg.Gate == nil {
		panic("bus: ServiceConfig.Gate is required")
	}
	s := &Service{conn: conn, cfg: cfg, counts: make(map[string]*counts, len(endpoints))}
	for _, e := range endpoints {
		s.counts[e.Name] = new(counts)
	}
	service, err := micro.AddService(conn.nc, micro.Config{
		Name:               cfg.Name,
		Version:            cfg.Version,
		Description:        cfg.Description,
		Metadata:           cfg.Metadata,
		QueueGroupDisabled: true,
		StatsHandler:       s.stats,
	})
	if err != nil {
		return nil, gfs.Errorf(gfs.CodeInvalid, "service %q %q: %v", cfg.Name, cfg.Version, err)
	}
	for _, e := range endpoints {
		options := []micro.EndpointOpt{
			micro.WithEndpointSubject(e.Subject),
			micro.WithEndpointPendingLimits(gfs.MaxInFlightRequests, pendingBytes),
		}
		if e.Queue != "" {
			options = append(options, micro.WithEndpointQueueGroup(e.Queue))
		}
		if err := service.AddEndpoint(e.Name, s.handler(e), options...); err != nil {
			s.Stop()
			return nil, gfs.Errorf(gfs.CodeInvalid, "endpoint %q on %q: %v", e.Name, e.Subject, err)
		}
	}
	if err := conn.Flush(context.Background()); err != nil {
		s.Stop()
		return nil, fmt.Errorf("serve %s: %w", cfg.Name, err)
	}
	return s, nil
}

// Stop refuses the requests that arrive from now on with ErrUnavailable, or drops them where the service would not
// have answered. Those admitted may still be finished. The subscriptions themselves end with the connection, which
// is mostly closed next. It is idempotent.
func (s *Service) Stop() { s.stopped.Store(true) }

func (s *Service) stats(e *micro.Endpoint) any {
	c := s.counts[e.Name]
	if c == nil {
		return nil
	}
	return endpointData{
		Replied: c.replied.Load(), Failed: c.failed.Load(), Busy: c.busy.Load(), Ignored: c.ignored.Load(),
		InFlight: s.cfg.Gate.InUse(), Limit: s.cfg.Gate.Limit(),
	}
}

// handler admits requests and passes them to the endpoint.
func (s *Service) handler(e Endpoint) micro.Handler {
	count := s.counts[e.Name]
	return micro.HandlerFunc(func(arrived micro.Request) {
		answers := s.cfg.Answers == nil || s.cfg.Answers()
		if !answers && (!e.Always || s.stopped.Load()) {
			count.ignored.Add(1)
			return
		}
		r := &Request{
			Message: Message{arrived.Subject(), nats.Header(arrived.Headers()), arrived.Data()},
			conn:    s.conn,
			reply:   arrived.Reply(),
			count:   count,
		}
		leave, err := s.enter()
		if err != nil {
			count.busy.Add(1)
			r.publish(&nats.Msg{Subject: r.reply, Header: encodeError(err)})
			return
		}
		r.leave = leave
		e.Handle(r)
	})
}

func (s *Service) enter() (leave func(), err error) {
	if s.stopped.Load() {
		return nil, gfs.Errorf(gfs.CodeUnavailable, "%s is stopping; try again", s.cfg.Name)
	}
	return s.cfg.Gate.Enter()
}

// Request is a request that was admitted. It must be finished exactly once: by Reply, Fail or Ignore, from any
// goroutine. Finishing it twice is a bug and panics.
type Request struct {
	Message
	conn     *Conn
	reply    string          // subject of the answer; empty if the sender wants none
	local    func(*nats.Msg) // takes answers in the place of conn; nil for what came by NATS
	leave    func()
	count    *counts
	finished atomic.Bool
}

// Reply answers. An answer larger than gfs.MaxMessageBytes becomes ErrInternal at the other side. That an answer is
// lost because the connection is away is logged at Debug; whoever asked then finds that the outcome is unknown.
func (r *Request) Reply(answer proto.Message) {
	data, err := encode(r.subject, answer)
	if err != nil {
		r.Fail(gfs.Errorf(gfs.CodeInternal, "the answer cannot be sent: %v", err))
		return
	}
	r.finish(&r.count.replied)
	r.publish(&nats.Msg{Subject: r.reply, Data: data})
}

// Fail answers with an error, which must not be nil: its gfs.Code and its text.
func (r *Request) Fail(err error) {
	if err == nil {
		panic("bus: Fail with a nil error")
	}
	r.finish(&r.count.failed)
	r.publish(&nats.Msg{Subject: r.reply, Header: encodeError(err)})
}

// Ignore leaves the request without an answer: somebody else gives it, or nobody.
func (r *Request) Ignore() { r.finish(&r.count.ignored) }

// Progress sends a message ahead of the answer, such as "still at work": for endpoints that are asked by
// AskAsync. It does nothing once the request is finished.
func (r *Request) Progress(message proto.Message) {
	if r.finished.Load() {
		return
	}
	data, err := encode(r.subject, message)
	if err != nil {
		r.conn.log.WithField("err", err).Error("progress message too large")
		return
	}
	r.publish(&nats.Msg{Subject: r.reply, Data: data})
}

func (r *Request) finish(count *atomic.Int64) {
	if r.finished.Swap(true) {
		panic("bus: request on " + r.subject + " finished twice")
	}
	count.Add(1)
	r.leave()
}

// publish goes past micro's own Respond and Error, which write to what its handler reads once it has returned.
func (r *Request) publish(msg *nats.Msg) {
	if r.local != nil {
		r.local(msg)
		return
	}
	if r.reply == "" {
		return
	}
	if err := r.conn.send(msg); err != nil {
		r.conn.log.WithField("subject", r.subject).WithField("err", err).Debug("answer lost")
	}
}

// Typed makes an endpoint's Handle of a function that wants its request decoded. A request that cannot be decoded
// is refused with ErrInvalid.
func Typed[M any, P interface {
	*M
	proto.Message
}](handle func(r *Request, message P)) func(*Request) {
	return func(r *Request) {
		message := P(new(M))
		if err := r.Unmarshal(message); err != nil {
			r.Fail(err)
			return
		}
		handle(r, message)
	}
}

// ReplyTo makes the reply of a command out of a request: its answer finishes the request.
func ReplyTo[P proto.Message](r *Request) actors.Reply[P] {
	return actors.NewReply(func(answer P, err error) {
		if err != nil {
			r.Fail(err)
			return
		}
		r.Reply(answer)
	})
}
