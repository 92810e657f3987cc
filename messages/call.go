package messages

import "fmt"

// HeaderRequestID is the header of a request over NATS that carries the id of a client's call, as CallID writes it. It
// names the call in the logs of all who work on it. What goes over TCP has the number in a field of its own.
const HeaderRequestID = "Cairn-Request-Id"

// CallID is the id of a client's call in headers and logs.
func CallID(call uint64) string { return fmt.Sprintf("%016x", call) }
