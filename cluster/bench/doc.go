// Package bench measures a running cluster from where an application stands: through clientlib and nothing else.
// Package limits, below it, measures what the machine could do at most; both share the cases, runs and results here.
//
// # What is measured
//
//	write    N clients write a file each, from Create to Close: every byte on every replica
//	read     N clients read a file each from its beginning, warm; random reads fetch 64 KiB, some at a time
//	append   N producers append numbered records to one file, each with some in flight; afterwards the file is read
//	         back and every acknowledged record must be there, whole, at the offset that its acknowledgement named
//	meta     stat and create, some at a time
//
// A client or producer has a clientlib.Client of its own, with its own connections, as separate programs would have.
//
// # How
//
// Plan.Run runs every case once a round, in an order shuffled anew for each round, so that a disturbance of the
// machine does not hit one case alone. sync(2) precedes each run: dirty pages of one run are not written back during
// the next. A result is the median run of its case, with the latencies and the errors of all runs.
//
// What counts as one operation, for latencies: a Write of 1 MiB, which waits for room in the client's window, and the
// Close that waits for the rest; a Read of up to 1 MiB; a random read; an append from the call to its acknowledgement;
// a stat; a create.
//
// Latencies are kept in histograms of fixed size (Histogram), one a worker; memory does not grow with the length of
// a run, but for the offsets of acknowledged appends (24 bytes a record), which the check afterwards needs.
//
// # When something fails
//
// A failed operation is counted and the run goes on. A worker stops when the cluster is unavailable to it, which the
// client library says only after retries of its own, or after 100 failures. The offsets of what was acknowledged are
// checked all the same.
//
// # What is left behind
//
// Nothing: everything is made in one directory of the cluster. Files are emptied before they are removed, so that the
// trash holds none of their bytes; of created files the trash keeps the names until its retention is over.
//
// # What it does not do
//
// It starts no cluster and injects no fault. What a figure is worth on a machine is said by the raw limit that ran right
// before each of its runs (Case.Limit), and by the ratio of the two.
package bench
