// Package chaos runs a cluster of separate processes under load and faults and checks afterwards that nothing that
// was acknowledged is lost, torn or there twice, and that all replicas are the same.
//
// The faults are real: SIGKILL, SIGSTOP followed by SIGCONT, and connections that proxies cut off, for data, to NATS or
// both, altogether or in one direction. One chunkserver is struck at a time, and the next when no replica is missing any
// more. A seed decides who is struck, how and when (plan.go), so a run can be repeated as far as the machine's timing
// allows; some faults wait for the moment when a chunk is being reconfigured, closed or copied, which the processes' logs
// tell (watch.go).
//
// Losses of power are a run of their own (power.go): each process has an ext4 file system in an image (disk.go), which
// is made to forget at once all that was not flushed, and whose pages are written back at random until then. What was synced
// has to be there afterwards (written.go).
//
// Producers and readers are clients in the running process (load.go, readers.go); an error that one of them sees fails the
// run, since the library is to absorb every fault. What was under way when a fault struck, and how long each operation
// took, is kept account of (operations.go).
package chaos
