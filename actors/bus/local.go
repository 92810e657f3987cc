package bus

import (
	"github.com/nats-io/nats.go"
)

// NewRequest makes a request that came by another way than NATS, a simulation's: answer gets each message that the
// handler answers with, and must not wait. subject is what the handler sees, data the encoded message, which the request
// keeps.
func NewRequest(subject string, data []byte, answer func(Answer)) *Request {
	return &Request{
		Message: Message{subject: subject, data: data}, reply: subject, leave: func() {}, count: new(counts),
		local: func(msg *nats.Msg) {
			answer(Answer{Message: &Message{subject: subject, header: msg.Header, data: msg.Data}})
		},
	}
}
