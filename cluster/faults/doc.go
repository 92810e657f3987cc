// Package faults puts faults between the parts of a cluster: a Proxy stands before one listener and loses, holds or resets
// what goes through, as a network does that fails.
//
// A Proxy never changes or reorders bytes of a connection; it forwards them, holds them back for a while, or ends the
// connection. It keeps nothing that was sent through it beyond what the sockets hold, and has no idea of frames: a
// connection may end in the middle of one.
package faults
