package bus

import (
	"encoding/json"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/cairnfs/cairn/messages/gfs"
)

// Publish sends a protobuf to whoever listens, without knowing whether anybody does. It fails with ErrInvalid if
// the message is too large and with ErrUnavailable if the connection is away: nothing is kept for later.
func Publish(conn *Conn, subject string, message proto.Message) error {
	data, err := encode(subject, message)
	if err != nil {
		return err
	}
	return conn.publish(subject, data)
}

// PublishJSON is Publish for monitoring messages.
func PublishJSON(conn *Conn, subject string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return gfs.Errorf(gfs.CodeInvalid, "%s: cannot encode the message: %v", subject, err)
	}
	if err := (&Message{subject: subject, data: data}).checkSize(); err != nil {
		return err
	}
	return conn.publish(subject, data)
}

func (c *Conn) publish(subject string, data []byte) error {
	if err := c.send(&nats.Msg{Subject: subject, Data: data}); err != nil {
		return c.explain(err, subject)
	}
	return nil
}

// Subscription is a running Subscribe.
type Subscription struct {
	conn *Conn
	sub  *nats.Subscription
}

// Subscribe calls handle with each message on subject, which may have wildcards, one at a time and in order of
// arrival; handle must not wait. At most limit messages, and 64 MiB, wait for it; what exceeds that is dropped and
// logged at Warn. The subscription holds from the next Flush on, and comes back with the connection.
func Subscribe(conn *Conn, subject string, limit int, handle func(*Message)) (*Subscription, error) {
	sub, err := conn.nc.Subscribe(subject, func(msg *nats.Msg) {
		handle(&Message{msg.Subject, msg.Header, msg.Data})
	})
	if err != nil {
		return nil, conn.explain(err, subject)
	}
	s := &Subscription{conn, sub}
	if err := sub.SetPendingLimits(limit, pendingBytes); err != nil {
		return nil, s.abandon(err)
	}
	return s, nil
}

func (s *Subscription) abandon(err error) error {
	if stopErr := s.sub.Unsubscribe(); stopErr != nil {
		s.conn.log.WithField("err", stopErr).Debug("subscription not ended")
	}
	return s.conn.explain(err, s.sub.Subject)
}

// Stop ends the subscription. handle may still run once, for a message that has just arrived. It is idempotent.
func (s *Subscription) Stop() {
	if err := s.sub.Unsubscribe(); err != nil {
		s.conn.log.WithField("subject", s.sub.Subject).WithField("err", err).Debug("subscription had ended")
	}
}
