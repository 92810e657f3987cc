// Package demo shows the whole system once: separate processes on free ports in a temporary directory, real files
// stored three times each, eight producers that append to one file at once, a chunkserver killed with SIGKILL in the
// middle, everything read back and checked.
//
// It judges nothing by itself: what it says is what it read back and compared. Any difference is an error.
package demo
