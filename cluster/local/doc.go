// Package local runs a cluster as separate processes that outlive whoever started them: `cairn local up`, and in
// another terminal `cairn local kill cs2`. Tests, which want processes that end with them, use cluster/processes.
//
// A directory is all that it knows:
//
//	cluster.json  the processes, their arguments and ports, written by the first up and kept until the ports change
//	run/NAME.pid  process id and start time, in clock ticks since boot
//	run/NAME.out  stdout: the `ready …` line
//	log/NAME.log  stderr of all its runs
//	data/NAME     what it stores
//
// A process is signalled only if its id still belongs to the process that was started: its start time says so. A lock on
// the directory lets one command at a time change the cluster.
package local
