package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages"
	"github.com/cairnfs/cairn/messages/gfs"
)

// RequestTimeout bounds requests and flushes whose context has no deadline: a server that goes away in between
// answers nothing, and no call waits for ever.
const RequestTimeout = 30 * time.Second

type requestIDKey struct{}

// WithRequestID gives the requests made with the context an id, of at most 64 bytes, so that the logs of all who
// work on an operation can name it. Without it requests carry none: a header costs a fifth of a round trip.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// requestHeader is the header of a request with the given id, or nil.
func requestHeader(id string) nats.Header {
	if id == "" {
		return nil
	}
	return nats.Header{messages.HeaderRequestID: {oneLine(id)}}
}

func boundedContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, RequestTimeout)
}

// Ask sends req to subject and decodes the first answer into reply, or returns the error that the server
// answered with. It blocks, so it must not be called inside an actor: that is what AskAsync is for. Without an answer
// the error is
//   - ErrUnavailable if nobody serves the subject or the connection is away: the request reached nobody;
//   - ErrOutcomeUnknown, wrapping the context's error, if ctx (or RequestTimeout, if it has no deadline) ended
//     first: whoever serves the subject may have got it;
//   - ErrInvalid if req is larger than gfs.MaxMessageBytes or subject is none: nothing was sent;
//   - ErrInternal if the answer cannot be decoded.
func Ask(ctx context.Context, conn *Conn, subject string, req, reply proto.Message) error {
	data, err := encode(subject, req)
	if err != nil {
		return err
	}
	ctx, cancel := boundedContext(ctx)
	defer cancel()
	id, _ := ctx.Value(requestIDKey{}).(string)
	msg, err := conn.nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: subject, Header: requestHeader(id), Data: data})
	if err != nil {
		return conn.explain(err, subject)
	}
	return decodeReply(&Message{subject: subject, header: msg.Header, data: msg.Data}, reply)
}

// decodeReply takes an answer apart.
func decodeReply(answer *Message, reply proto.Message) error {
	if err := answer.failure(); err != nil {
		return err
	}
	if err := answer.Unmarshal(reply); err != nil {
		return gfs.Errorf(gfs.CodeInternal, "answer on %v; do both sides run the same version?", err)
	}
	return nil
}
