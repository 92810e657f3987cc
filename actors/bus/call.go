package bus

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
)

// ErrSilent is wrapped by the error of a call whose server gave no sign of life within Call.Silence.
var ErrSilent = errors.New("no sign of life")

// Call is a request that an actor makes: nobody waits, and the answer may come in several messages, such as
// "still at work" a few times and then the result.
type Call struct {
	Subject   string
	Request   proto.Message
	RequestID string // for logs, see WithRequestID; may be empty
	// Silence ends the call when nothing came for so long. Zero means Total.
	Silence time.Duration
	// Total ends the call in any case. Zero means RequestTimeout.
	Total time.Duration
}

// Answer is one message of a call's answer, or what ended the call without the last one.
type Answer struct {
	Message *Message // nil if Err comes from the bus itself
	Err     error
}

// Decode takes the answer apart: the error, or the decoded message.
func (a Answer) Decode(into proto.Message) error {
	if a.Err != nil {
		return a.Err
	}
	return decodeReply(a.Message, into)
}

// callTable holds the calls of a connection that wait, by the last token of their reply subject: one subscription
// serves them all.
type callTable struct {
	mu      sync.Mutex
	prefix  string // of reply subjects, with the dot; empty until the first call
	closed  bool
	pending map[string]*call
}

// call is one that waits.
type call struct {
	conn  *Conn
	spec  Call
	token string
	on    func(Answer) (done bool)

	mu         sync.Mutex
	timer      *time.Timer
	started    time.Time
	lastSign   time.Time
	delivering bool  // on runs
	failure    error // what ends the call once on has returned
	ended      bool  // on is not called again
}

// AskAsync sends a call and returns at once. on gets each message that answers, until it returns true, and
// finally an Answer with an error if the last message did not come: from a server's own error, ErrUnavailable
// (nobody serves the subject, or the connection is away: nobody got it), ErrOutcomeUnknown wrapping ErrSilent
// (Silence), or ErrOutcomeUnknown (Total, or Close); ErrBusy and ErrInvalid mean that it was not sent. After an
// error on is not called again, whatever it returns.
//
// on runs on another goroutine, never twice at the same time, and must not wait: it sends a command to an actor,
// which checks that the answer still matters.
//
// cancel ends the call without a word and reports whether it was in time; if not, on has had its last call or has
// it now.
func AskAsync(conn *Conn, spec Call, on func(Answer) (done bool)) (cancel func() bool) {
	if spec.Total <= 0 {
		spec.Total = RequestTimeout
	}
	if spec.Silence <= 0 || spec.Silence > spec.Total {
		spec.Silence = spec.Total
	}
	now := time.Now()
	c := &call{conn: conn, spec: spec, token: nuid.Next(), on: on, started: now, lastSign: now}
	if err := c.send(); err != nil {
		go c.end(err)
	}
	return c.cancel
}

// send registers the call before it publishes, so that no answer finds it missing.
func (c *call) send() error {
	data, err := encode(c.spec.Subject, c.spec.Request)
	if err != nil {
		return err
	}
	if c.conn.away.Load() { // before register, which may subscribe
		return c.conn.explain(nats.ErrConnectionReconnecting, c.spec.Subject)
	}
	reply, err := c.conn.register(c)
	if err != nil {
		return err
	}
	err = c.conn.send(&nats.Msg{
		Subject: c.spec.Subject,
		Reply:   reply,
		Header:  requestHeader(c.spec.RequestID),
		Data:    data,
	})
	if err != nil {
		return c.conn.explain(err, c.spec.Subject)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.timer = time.AfterFunc(c.spec.Silence, c.onTimer)
	}
	return nil
}

// register makes room for a call and returns where its answers go.
func (c *Conn) register(waiting *call) (reply string, err error) {
	t := &c.calls
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return "", c.explain(nats.ErrConnectionClosed, waiting.spec.Subject)
	case len(t.pending) >= gfs.MaxInFlightRequests:
		return "", gfs.Errorf(gfs.CodeBusy, "%d requests without an answer are the limit; try again after a pause",
			gfs.MaxInFlightRequests)
	case t.prefix == "":
		prefix := c.nc.NewInbox() + "."
		sub, err := c.nc.Subscribe(prefix+"*", c.onAnswer)
		if err != nil {
			return "", c.explain(err, waiting.spec.Subject)
		}
		if err := sub.SetPendingLimits(2*gfs.MaxInFlightRequests, pendingBytes); err != nil {
			return "", c.explain(err, waiting.spec.Subject)
		}
		t.prefix = prefix
	}
	t.pending[waiting.token] = waiting
	return t.prefix + waiting.token, nil
}

func (c *Conn) unregister(token string) {
	c.calls.mu.Lock()
	defer c.calls.mu.Unlock()
	delete(c.calls.pending, token)
}

// onAnswer gives a message to the call that it answers; one that comes too late is dropped.
func (c *Conn) onAnswer(msg *nats.Msg) {
	token := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	c.calls.mu.Lock()
	waiting := c.calls.pending[token]
	c.calls.mu.Unlock()
	if waiting == nil {
		return
	}
	message := &Message{subject: waiting.spec.Subject, header: msg.Header, data: msg.Data}
	if noResponders(msg) {
		waiting.end(c.explain(nats.ErrNoResponders, waiting.spec.Subject))
	} else if err := message.failure(); err != nil {
		waiting.end(err)
	} else {
		waiting.deliver(message)
	}
}

// endCalls ends all that wait, when the connection is closed.
func (c *Conn) endCalls() {
	c.calls.mu.Lock()
	c.calls.closed = true
	waiting := make([]*call, 0, len(c.calls.pending))
	for _, w := range c.calls.pending {
		waiting = append(waiting, w)
	}
	c.calls.mu.Unlock()
	for _, w := range waiting {
		w.end(gfs.Errorf(gfs.CodeOutcomeUnknown, "%s: the connection was closed before the answer", w.spec.Subject))
	}
}

// deliver hands one message to on and goes on waiting if it was not the last.
func (c *call) deliver(message *Message) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.delivering = true
	c.mu.Unlock()
	done := c.on(Answer{Message: message})
	c.mu.Lock()
	c.delivering = false
	c.lastSign = time.Now()
	if done {
		c.finish()
	}
	failure := c.failure
	c.mu.Unlock()
	if failure != nil {
		c.end(failure)
	}
}

// onTimer runs when the first deadline may have passed; a sign of life meanwhile has moved it.
func (c *call) onTimer() {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	silent, total := time.Since(c.lastSign), time.Since(c.started)
	left := min(c.spec.Silence-silent, c.spec.Total-total)
	if c.delivering { // a sign of life that lastSign does not show yet
		left = max(left, time.Millisecond)
	}
	if left > 0 {
		c.timer.Reset(left)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if total >= c.spec.Total {
		c.end(gfs.Errorf(gfs.CodeOutcomeUnknown, "%s: no last answer within %v", c.spec.Subject, c.spec.Total))
		return
	}
	c.end(silence{gfs.Errorf(gfs.CodeOutcomeUnknown, "%s: no sign of life for %v", c.spec.Subject, c.spec.Silence)})
}

// end gives on its last Answer, an error, unless it has had it. While on runs, it is left to deliver.
func (c *call) end(err error) {
	c.mu.Lock()
	if c.delivering {
		c.failure = err
		c.mu.Unlock()
		return
	}
	ended := c.ended
	c.finish()
	c.mu.Unlock()
	if !ended {
		c.on(Answer{Err: err})
	}
}

// finish marks the call as ended; mu is held.
func (c *call) finish() {
	if c.ended {
		return
	}
	c.ended = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.conn.unregister(c.token)
}

func (c *call) cancel() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	inTime := !c.ended && !c.delivering
	c.finish()
	return inTime
}

// silence is the error of a call that heard nothing: its code crosses processes, ErrSilent is for the caller.
type silence struct{ error }

// Unwrap makes errors.Is and gfs.CodeOf work.
func (s silence) Unwrap() []error { return []error{s.error, ErrSilent} }
