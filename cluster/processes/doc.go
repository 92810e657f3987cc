// Package processes starts and ends the processes of a local cluster: `cairn nats`, `cairn master` and
// `cairn chunkserver`, each told by its `ready …` line. Killing one is a real SIGKILL.
//
// It keeps no state on disk. Every process that it started ends with Close; a process that ends by itself is seen in
// Process.Exited.
package processes
