// Package bus is the edge of an actor system to NATS: how every Cairn process connects, serves requests, asks
// others, and publishes.
//
// Requests and replies are protobufs of at most gfs.MaxMessageBytes; monitoring messages are JSON. A server is a
// NATS micro service, so that `nats micro ping`, `info` and `stats` show it. Its endpoints have no queue group
// unless one is given: every master gets each request and the acting one alone answers, the others stay silent.
//
// # Contracts
//
// A Request is finished exactly once, by Reply, Fail or Ignore, in the handler or much later from any goroutine;
// a second time is a bug and panics. Handlers and callbacks run on a goroutine of the client library, one at a time
// for each endpoint or subscription and in the order of arrival, and must not wait: they send a command to an actor.
//
// An error crosses as its gfs.Code and a detail, in the headers that NATS micro services use for errors, and comes
// back as a *gfs.Error. Errors of the bus itself name the subject or the server's address and what to do:
// ErrUnavailable means that the request was not delivered, ErrOutcomeUnknown that it may have been, ErrBusy that
// too much is in flight, ErrInvalid that the message was malformed or too large.
//
// # What it does not do
//
// It keeps nothing: no message is stored, repeated or delivered late (a disconnected client refuses to publish
// instead of buffering, because an old order must not be sent later). It never retries. Bytes of files do not pass
// through it. While the connection is away, it is sought for ever; subscriptions come back with it.
//
// Calls are bounded: Connect by 5 s, Ask by its context or RequestTimeout, AskAsync by its Silence and Total. A
// publication does not wait for the network unless the connection's write buffer is full, and then for WriteTimeout
// at most.
package bus
