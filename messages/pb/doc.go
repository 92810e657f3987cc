// Package pb is generated from the .proto files in the folder above (task proto). It holds the protocol buffers
// of the control plane and of the data plane.
package pb
