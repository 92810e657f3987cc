// Package top is the live view of a cluster that cairn admin top draws: the acting master, the file system's size and
// health, each chunkserver with its load, and the latest events.
//
// View (view.go) is pure: it takes in what is known and gives a Snapshot or lines of text. Run is the shell around it: each
// second it asks the master, and meanwhile it listens to the metrics and events that every process publishes.
// Rates are differences of two metrics messages, which come every gfs.MetricsInterval, so they appear after two of them.
//
// Nothing is durable. Memory is bounded: maxProcesses processes and maxEvents events are remembered.
package top
