// Command cairn is every role of the system and every file operation on the command line.
//
//	cairn demo                     the whole system once, on free ports in a temporary directory
//	cairn dev                      a cluster in one process
//	cairn nats|master|chunkserver  one role as one process
//	cairn local up|down|…          a cluster of such processes on this machine
//	cairn put|get|cat|ls|…         files
//	cairn append|tail              records
//	cairn admin status|top|…       how the cluster is
//	cairn completion bash|zsh|…    completion for a shell, also of the cluster's paths
//
// Exit status: 0 done, 1 failed, 2 wrong usage. Errors are one line on stderr that says what to do next.
package main
