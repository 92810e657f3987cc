// Package messages holds the words of the system: the NATS subjects and, in the folders beside it, the nouns
// (gfs), the protocol buffers (pb, generated from the .proto files here, one conversation a file) and the frames
// of the data plane (wire). No behaviour lives here.
package messages
