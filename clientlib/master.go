package clientlib

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

// The headers of an error reply, as the NATS micro services have them: the code is a gfs.Code in decimal.
const (
	headerErrorCode = "Nats-Service-Error-Code"
	headerError     = "Nats-Service-Error"
)

// The time that one attempt waits for its reply. A master that died or lost its role says nothing, so that only the
// next attempt reaches its successor, which takes a second or three: until then attempts are short. Behind that a
// slow master is asked less and less often.
const (
	firstAttemptTime = 500 * time.Millisecond
	shortAttempts    = 6
	maxAttemptTime   = 8 * time.Second
)

// ask sends one request to the acting master and decodes its reply, again and again until somebody answers, ctx ends
// or nothing moved for the client's timeout. Only for requests that may be answered twice.
func (c *Client) ask(ctx context.Context, op string, request, reply proto.Message) error {
	_, err := c.askUntil(c.patience(ctx), op, request, reply)
	return err
}

// askUntil is ask within a call's patience. Uncertain reports that some attempt may have taken effect although
// nothing was heard of it.
func (c *Client) askUntil(p *patience, op string, request, reply proto.Message) (uncertain bool, err error) {
	payload, err := proto.Marshal(request)
	if err != nil {
		return false, gfs.Errorf(gfs.CodeInternal, "encode request %s: %v", op, err)
	}
	if len(payload) > gfs.MaxMessageBytes {
		return false, gfs.Errorf(gfs.CodeInvalid, "request %s of %d bytes: at most %d are allowed", op, len(payload), gfs.MaxMessageBytes)
	}
	wait := firstAttemptTime
	for unanswered := 0; ; {
		maybe, err := c.attempt(p, op, payload, reply, wait)
		if err == nil {
			if c.debugging() {
				p.log().WithField("op", op).Debug("master answered")
			}
			return uncertain, nil
		}
		uncertain = uncertain || maybe
		// A master that lost its role in the middle cannot tell what came of a request: ask its successor.
		code := gfs.CodeOf(err)
		if code.Action() != gfs.Retry && code != gfs.CodeOutcomeUnknown {
			return uncertain, err
		}
		p.log().WithField("op", op).WithField("attempt", p.attempts).WithError(err).Debug("master request failed")
		if err := p.pause(err); err != nil {
			return uncertain, err
		}
		if maybe {
			if unanswered++; unanswered >= shortAttempts {
				wait = min(2*wait, maxAttemptTime)
			}
		}
	}
}

// attempt sends the request once. Maybe reports that it may have been received although no reply came.
func (c *Client) attempt(p *patience, op string, payload []byte, reply proto.Message, wait time.Duration) (maybe bool, err error) {
	if err := p.ended(nil); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(p.ctx, min(wait, p.left()))
	defer cancel()
	stop := context.AfterFunc(c.life, cancel)
	defer stop()
	answer, err := c.request(ctx, &nats.Msg{
		Subject: c.subjects.Master(op), Header: nats.Header{messages.HeaderRequestID: {messages.CallID(p.call)}}, Data: payload})
	if err != nil {
		return c.explain(p, op, wait, err)
	}
	if text := answer.Header.Get(headerErrorCode); text != "" {
		code, err := strconv.ParseUint(text, 10, 16)
		if err != nil || code == uint64(gfs.CodeNone) {
			return true, gfs.Errorf(gfs.CodeInternal, "the master answered %s with the error code %q", op, text)
		}
		return gfs.Code(code) == gfs.CodeOutcomeUnknown || gfs.Code(code) == gfs.CodeUnavailable,
			gfs.FromCode(gfs.Code(code), answer.Header.Get(headerError))
	}
	if err := proto.Unmarshal(answer.Data, reply); err != nil {
		return true, gfs.Errorf(gfs.CodeInternal, "malformed reply of %d bytes from the master to %s: %v", len(answer.Data), op, err)
	}
	return false, nil
}

// request sends one message and waits for its reply until ctx ends. The NATS library holds its lock through the
// handshake of a reconnection, for as long as a server that accepts and then says nothing lets it wait: ctx does not
// end that, so the wait is left to a goroutine of its own.
func (c *Client) request(ctx context.Context, message *nats.Msg) (*nats.Msg, error) {
	type answer struct {
		message *nats.Msg
		err     error
	}
	answers := make(chan answer, 1)
	started := c.spawn(func() {
		reply, err := c.nats.RequestMsgWithContext(ctx, message)
		answers <- answer{reply, err}
	})
	if !started {
		return nil, errClientClosed()
	}
	select {
	case a := <-answers:
		return a.message, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answers: // both at once: an answer counts more
		return a.message, a.err
	default:
		return nil, ctx.Err()
	}
}

// explain turns an error of the NATS library into one of ours.
func (c *Client) explain(p *patience, op string, wait time.Duration, err error) (maybe bool, _ error) {
	switch {
	case c.life.Err() != nil:
		return true, errClientClosed()
	case errors.Is(err, nats.ErrNoResponders):
		return false, gfs.Errorf(gfs.CodeUnavailable, "no master answers for cluster %q at %s", c.options.cluster, c.url)
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return false, gfs.Errorf(gfs.CodeUnavailable, "the NATS server at %s does not answer", c.url)
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject):
		return false, gfs.Errorf(gfs.CodeInvalid, "request %s: %v", op, err)
	case p.ctx.Err() != nil:
		return true, context.Cause(p.ctx)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, nats.ErrTimeout):
		return true, gfs.Errorf(gfs.CodeUnavailable, "the master of cluster %q did not answer %s within %v", c.options.cluster, op, wait)
	}
	return true, gfs.Errorf(gfs.CodeUnavailable, "request %s over NATS at %s: %v", op, c.url, err)
}
