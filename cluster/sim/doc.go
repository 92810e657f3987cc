// Package sim runs a cluster in one thread, from one number: masters, chunkservers and clients, with a simulated clock,
// network and log, and with processes that end at any moment. Checkers say when something is not as semantics demand.
//
// # What is simulated and what is not
//
// The code of the chunkserver (chunkserver.StartSimulated: actors, mutation, store) and of the master's actors
// (master.StartSimulated: namespace, lease, registry, placement, joins) runs as it does in a process. What is simulated is
// what they meet the world through: goroutines and timers (coroutine.go), sockets (stream.go, chain.go), NATS
// (network.go), Raft (master.go: what is in the log is committed), and clients (clients.go). The store's files are real
// and lie in memory; a process can end in the middle of any operation on them, with a part of what it was writing done;
// where power is lost, of what was not synced any pages are forgotten (power.go). Operations on it fail, once or for a
// while: to read, write, sync, make, open and rename files, to commit to the index, and for lack of space (disk.go). After an
// fsync that failed pages of what was not synced are gone and the next one knows nothing of it; after a commit that failed
// the index may have it all the same. Bits flip in replicas (flip.go).
//
// What a disk loses for good may be all that there is of something. So where there are losses of power, or disks that fail
// beside other troubles, all files are made synced, and nothing that was acknowledged may be lost; and bits flip, reads
// fail, and unsynced pages go only in scripts in which no other server has any trouble, of replicas beside which another
// one is good.
//
// Some data of mutations are pushed ahead of them (push.go, pushline.go): the code that takes pushes in, passes them on, keeps
// them and finds them for who names them is that of package dataplane, between simulated connections. Data come late, in part, to some
// of the members or to none; names are used again, by clients that begin anew; servers end between a push and its mutation;
// data get old and find no room, for which a simulated server keeps little of them and not for long. Members pull what they
// lack while what comes behind it waits (inbox.go).
//
// Clients append records to one file and write to slots of another, and read both. In three of eight seeds they also truncate
// these files, remove them, bring them back, make them again and put new ones in their place (changes.go), and now and
// then a file has several chunks that are full soon. What must come of that, filechecks.go knows.
//
// Messages on the bus are late, reordered, lost and doubled. Streams are in order until they break, and what was on its
// way then is lost from some moment on. Processes end, stop and go on, and have slow disks; links are cut, in both
// directions or in one; the lead changes from one master to another, which hears of it late.
//
// # Runs
//
// A Script is a seed and the steps of what befalls the cluster. Plan draws the steps of a seed; Run carries a script out;
// Minimize leaves out the steps that a failure does not need. Equal scripts are equal runs, to the last event. Scripts of
// failures that were found lie in testdata and are run by the tests.
//
//	go test ./cluster/sim                                    a few seconds of seeds
//	go test ./cluster/sim -run TestSim -v -sim.seeds=10000   more
//	go test ./cluster/sim -run TestSim -sim.seed=N -sim.v    one, and everything that happens in it
//
// # What it does not do
//
// It says nothing about sockets, NATS, Raft and the kernel, nor about speed; cluster/chaos has the real ones. Within one
// call of the store nothing else happens. Where disks fail, files are not truncated or removed.
package sim
