// Package limits measures what a machine can do at most where Cairn spends its time, so that a figure of a cluster can
// be held against it: same machine, same minutes, ratios instead of absolute figures.
//
//	crc32c         checksums of 64 KiB blocks, one core
//	tcp            one loopback connection between two processes
//	file-write     a new file, page cache
//	sendfile       a file in the page cache to a loopback connection
//	chain          client and three hops: checksums at every hop, a file at every hop (the limit of a write)
//	read-verified  sendfile and stored checksums to a client that checks (the limit of a read)
//	pread          random blocks over TCP, checked, 4 at a time (the limit of random reads)
//	nats-echo      requests over NATS to a service that echoes, 1 and 64 at a time (the limit of metadata)
//
// The parties are processes of their own, as in a cluster: the command that measures starts itself again in a role
// (Role) and talks to it over loopback. A role prints `ready ADDRESS`, serves until its context ends, and is killed by
// the kernel should the process that started it die.
//
// # The chain
//
// What a hop does is the least that a replica can do: read a frame of 256 KiB, pass it on whole, check a CRC32C a
// block, write it to a file of its own. There is no order among writers, no recovery, no metadata. The acknowledgement
// of the last hop travels back along the chain when the stream is at its end.
//
// Nothing is synced: acknowledged bytes are in the page cache. The CPU time of a result is that of all processes
// concerned; of other processes it is known in steps of 10 ms.
package limits
